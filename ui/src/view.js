// Making and changing what is on the page. Text always goes in as text, never as
// HTML, and what came from elsewhere through plain first.

// h makes an element: h("p", { class: "note" }, "text", otherElement). A property
// beginning with "on" is a listener; undefined, null and false children are left out.
export function h(tag, props, ...children) {
  const svg = tag === "svg" || tag === "path";
  const e = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [k, v] of Object.entries(props ?? {})) {
    if (v === undefined || v === null || v === false) continue;
    if (k.startsWith("on")) e.addEventListener(k.slice(2), v);
    else e.setAttribute(k, v === true ? "" : v);
  }
  e.append(...children.flat().filter((c) => c !== undefined && c !== null && c !== false && c !== ""));
  return e;
}

// plain makes visible what would otherwise hide in a text or turn it around: control
// and format characters, those of unknown meaning, what is drawn as nothing (Unicode's
// Default_Ignorable_Code_Point, with 256 variation selectors, which can carry any bytes;
// the blank Braille pattern), and line separators. How an emoji is drawn may be said
// behind it. Line feeds and tabs stay where lines says so.
export function plain(s, lines = false) {
  return String(s).replace(/(\p{Extended_Pictographic}\ufe0f)|[\p{C}\p{DI}\p{Zl}\p{Zp}\u2800]/gu, (c, emoji) =>
    emoji || (lines && (c === "\n" || c === "\t")) ? c : `\\u{${c.codePointAt(0).toString(16)}}`);
}

// said is a name that somebody else chose, kept apart from the text around it.
export const said = (s, tag = "strong") => h("bdi", { class: "said" }, h(tag, null, plain(s)));

// show replaces the page's content by a view, and puts the focus on its heading, so
// that screen readers begin there. What the last view left running is ended.
const running = new Set();
export function show(title, ...children) {
  document.title = title;
  const heading = h("h1", { tabindex: "-1" }, title);
  document.getElementById("main").replaceChildren(heading, ...children.flat().filter(Boolean));
  for (const r of running) {
    if (r.element.isConnected) continue;
    running.delete(r);
    r.end();
  }
  announce("");
  window.scrollTo(0, 0);
  heading.focus({ preventScroll: true });
}

// onLeave says what ends with the view that an element is part of, or will be.
export const onLeave = (element, end) => running.add({ element, end });

// announce tells assistive technology, and everybody else, what has just changed.
export function announce(s) {
  document.getElementById("status").textContent = s;
}

// sentence is an answer of the server as one: what follows on "error:" there stands
// alone here.
export const sentence = (s) => plain(s).replace(/^\p{Ll}/u, (c) => c.toUpperCase()).replace(/[^.!?…]$/u, "$&.");

export const button = (label, onclick, kind = "") => h("button", { type: "button", class: kind, onclick }, label);

// notice is a box that stands out: of kind "warn", "bad", "good" or "".
export const notice = (kind, ...children) => h("div", { class: "notice " + kind, role: kind === "bad" || kind === "warn" ? "alert" : undefined }, ...children);

// facts is a list of names and values; pairs without a value are left out.
export const facts = (...pairs) =>
  h("dl", { class: "facts" }, pairs.filter((p) => p && p[1] !== undefined && p[1] !== "").map(([k, v]) => h("div", null, h("dt", null, k), h("dd", null, v))));

// code is bytes or an ID as text, in groups that eyes can compare.
export const code = (s, size = 8) => h("code", null, (plain(s).match(new RegExp(`.{1,${size}}`, "gu")) ?? []).map((g) => h("span", null, g)));

// long is a long text, shortened until it is asked for.
export const long = (s) =>
  s.length <= 40 ? code(s) : h("details", { class: "long" }, h("summary", null, h("code", null, s.slice(0, 12) + "…" + s.slice(-8))), code(s));

// minutes writes a time span: "9:05", "2 h 05 min", "3 days".
export function minutes(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  const two = (n) => String(n).padStart(2, "0");
  if (s >= 2 * 86400) return `${Math.floor(s / 86400)} days`;
  if (s >= 3600) return `${Math.floor(s / 3600)} h ${two(Math.floor((s % 3600) / 60))} min`;
  return `${Math.floor(s / 60)}:${two(s % 60)}`;
}

// countdown shows the time that is left until end (Unix seconds), by a clock in
// milliseconds, and calls over when it is up.
export function countdown(end, total, clock, over) {
  const bar = h("progress", { max: String(total), "aria-hidden": "true" });
  const left = h("span", { class: "left" });
  const box = h("div", { class: "countdown" }, h("span", null, "Time left"), left, bar);
  let timer;
  const tick = () => {
    const s = end - clock() / 1000;
    left.textContent = minutes(s);
    bar.value = Math.max(0, s);
    box.classList.toggle("soon", s < 60);
    if (s <= 0) {
      clearInterval(timer);
      over();
    }
  };
  timer = setInterval(tick, 500);
  queueMicrotask(tick);
  onLeave(box, () => clearInterval(timer));
  return box;
}

// alone opens the page, unless it is inside another page's frame, where a click could
// be somebody else's; or where there is no cryptography, which browsers keep from
// pages that did not come over HTTPS. Without it the style sheet shows nothing.
export function alone() {
  if (window.top !== window.self) return false;
  document.documentElement.classList.add("top");
  if (window.isSecureContext && crypto.subtle) return true;
  show("This page needs HTTPS", h("p", null, "Browsers give keys to pages that came over HTTPS or from this machine only. Ask for a link that begins with https://."));
  return false;
}
