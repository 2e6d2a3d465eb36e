// The page of whoever asks: the moving code of a request and how far it is.
//
// Its link has the request and its seed behind "#" (r, s), when the request was
// created and how long each form counts, in milliseconds (c, p). Forms are made here:
// the seed goes to nobody, and no call is made for a new form.

import { encodeQR } from "./qr/index.js";
import { formAt, link, period, progressProof, seedSize } from "./approval.js";
import { call, mount, now } from "./api.js";
import { base64, hex, unbase64url, unhex } from "./bytes.js";
import { alone, announce, code, facts, h, minutes, notice, onLeave, plain, said, sentence, show } from "./view.js";

const every = 2000; // milliseconds between two looks at the progress

function readLink() {
  const v = new URLSearchParams(location.hash.slice(1));
  try {
    const r = { request: unhex(v.get("r"), 16), seed: unbase64url(v.get("s"), seedSize), created: Number(v.get("c")), period: Number(v.get("p")) };
    return r.created > 0 && r.period >= 1000 && r.period <= 60_000 ? r : undefined;
  } catch {
    return undefined;
  }
}

// ends says what a page shows for a request that is over: title, kind and text.
const ends = {
  signed: ["Signed", "good", "Enough people have approved, and it is done. Whoever asked can fetch the result now."],
  refused: ["Refused", "bad", "It was refused, so it will not be signed."],
  expired: ["Expired", "bad", "It was not approved in time. To try again, ask for it anew."],
  cancelled: ["Cancelled", "bad", "Whoever asked for it has withdrawn it."],
  failed: ["Approved, but not done", "bad", "Enough people have approved, but it could not be done. The request says why; ask for it anew."],
};

// drawing is the code as one path of squares, redrawn only when the text changes.
function drawing() {
  const path = h("path", { fill: "#000" });
  const svg = h("svg", { class: "code", role: "img", "aria-label": "QR code for approvers. It changes every few seconds.", "shape-rendering": "crispEdges" }, path);
  let drawn = "";
  return {
    svg,
    draw(text) {
      if (text === drawn) return;
      drawn = text;
      const rows = encodeQR(text, "raw", { border: 4 });
      let d = "";
      rows.forEach((row, y) => {
        for (let x = 0; x < row.length; x++) {
          if (!row[x]) continue;
          const from = x;
          while (row[x + 1]) x++;
          d += `M${from} ${y}h${x + 1 - from}v1H${from}z`;
        }
      });
      svg.setAttribute("viewBox", `0 0 ${rows.length} ${rows.length}`);
      path.setAttribute("d", d);
    },
  };
}

// people shows who has answered, as dots that fill, and in words.
function people(p) {
  const n = Number(p.approvals) || 0;
  const answered = Array.isArray(p.answered) ? p.answered : [];
  return h("div", { class: "people" },
    h("p", { class: "count" }, h("strong", null, `${n} of ${p.quorum}`), Number(p.quorum) === 1 ? " approval" : " approvals"),
    h("div", { class: "dots", "aria-hidden": "true" }, Array.from({ length: Math.min(16, Number(p.quorum) || 0) }, (_, i) => h("span", { class: i < n ? "full" : "" }))),
    answered.length === 0 ? h("p", { class: "names" }, "Nobody has answered yet.") :
      h("ul", { class: "names" }, answered.map((x) => h("li", null, said(x.name), x.decision === "approve" ? " approved" : " refused"))));
}

async function page(r) {
  const base = mount + "ui/phone";
  const picture = drawing();
  const left = h("strong", { class: "left" }, "…");
  const progress = h("div", { class: "progress" }, h("p", { class: "count" }, "Asking how far it is …"));
  const account = h("span", null, "…");
  const trouble = h("div", { class: "trouble" });
  const id = hex(r.request);
  show("Scan to approve",
    h("div", { class: "columns" },
      h("div", { class: "plate" }, picture.svg),
      h("div", { class: "side" },
        progress,
        facts(["Time left", left], ["Account", account], ["Request", code(id)]),
        trouble,
        h("ol", { class: "steps" },
          h("li", null, "Scan the code with your enrolled device. It changes all the time: a photo of it is soon worthless."),
          h("li", null, "Compare the request on the device with the one here."),
          h("li", null, "Read what it asks for, then approve or refuse.")))));

  const proof = base64(await progressProof(r.seed, r.request));
  const state = { over: false, expires: undefined, asked: false };
  const timers = [];
  const stop = () => {
    state.over = true;
    timers.forEach(clearTimeout);
  };
  onLeave(picture.svg, stop);
  const later = (slot, f, ms) => {
    if (!state.over) timers[slot] = setTimeout(f, ms);
  };

  async function look() {
    let wait = every;
    try {
      const p = await call("approve/progress", { request: id, proof });
      if (state.over) return;
      trouble.replaceChildren();
      state.expires = Number(p.expires) * 1000;
      const was = progress.textContent;
      progress.replaceChildren(people(p));
      account.replaceChildren(said(p.account ?? ""));
      if (state.asked && was !== progress.textContent) announce(`${p.approvals} of ${p.quorum} approvals.`);
      if (!state.asked) {
        state.asked = true;
        tick();
        draw();
      }
      if (ends[p.state]) return end(p, id);
      progress.classList.toggle("approved", p.state === "approved");
      if (p.state === "approved") progress.append(p.reason
        ? h("p", { class: "names" }, "Enough approvals, but it is held: ", said(p.reason))
        : h("p", { class: "names" }, "Enough approvals. It is being done now, or waits for the account's owner."));
    } catch (err) {
      if (state.over) return;
      if (err.status === 403 || err.status === 404) return end({ state: "unknown" }, id);
      wait = 2 * every;
      trouble.replaceChildren(notice("warn", h("p", null, sentence(err.message))));
    }
    later(0, look, wait);
  }

  // draw shows the form of this moment and comes back when the next one begins.
  async function draw() {
    const t = now();
    const n = period(r.created, t, r.period);
    picture.draw(link(base, r.request, await formAt(r.seed, r.request, n)));
    later(1, draw, Math.max(50, r.created + (n + 1) * r.period - now()));
  }

  const tick = () => {
    clearTimeout(timers[2]);
    if (state.expires) left.textContent = minutes((state.expires - now()) / 1000);
    later(2, tick, 500);
  };
  tick();
  look();
}

function end(p, id) {
  const [title, kind, text] = ends[p.state] ?? ["No such request", "bad", "The link is not one of a request here, or the request ended long ago."];
  show(title, h("div", { class: "end" }, notice(kind, h("p", { class: "big" }, text), p.reason && h("p", null, sentence(p.reason))), h("section", { class: "card" }, p.quorum ? people(p) : undefined, facts(["Request", code(id)]))));
}

if (alone()) {
  const begin = () => {
    const r = readLink();
    if (r) return page(r);
    show("No code to show", h("p", null, "This page needs the whole link that came with the request, including what stands behind #. ", h("code", null, "mpckms request qr"), " prints it, or shows the code in a terminal."));
  };
  window.addEventListener("hashchange", begin);
  begin();
}
