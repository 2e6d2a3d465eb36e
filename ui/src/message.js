// What a request asks to sign, in a form that people can read, and only as far as
// this page is sure of it: it is made from the same bytes whose hash is approved.

import { concat, hex, sha256, text, utf8 } from "./bytes.js";
import { keccak256 } from "./keccak.js";
import { h, notice, plain } from "./view.js";

const first = 1200; // characters that are shown before the rest is asked for

const grouped = (b) => hex(b).replace(/.{8}(?=.)/g, "$& ");

// readable returns bytes as text where all of it can be seen: UTF-8 without control
// or format characters, other than line feeds and tabs.
function readable(b) {
  try {
    const s = text(b);
    return plain(s, true) === s && s.trim() !== "" ? s : undefined;
  } catch {
    return undefined;
  }
}

// block shows a text as it is. What is long is cut off until all of it is asked for:
// seen tells whether it was.
function block(s, kind) {
  const pre = h("pre", { class: kind, tabindex: "0" });
  if (s.length <= first) {
    pre.append(s);
    return { view: pre, seen: () => true };
  }
  let seen = false;
  const more = h("button", { type: "button", class: "more" }, `Show the other ${s.length - first} of ${s.length} characters`);
  more.addEventListener("click", () => {
    seen = true;
    pre.textContent = s;
    more.remove();
    pre.focus();
  });
  pre.append(s.slice(0, first) + " …");
  return { view: h("div", null, pre, more), seen: () => seen };
}

// message returns { title, view, seen } for an input and its message type.
export function message(input, type, hash) {
  const size = `${input.length} ${input.length === 1 ? "byte" : "bytes"}`;
  if (type === "digest") {
    const b = block(grouped(input), "hex");
    return { ...b, title: `A digest, ${size}`, view: h("div", null, b.view,
      notice("warn", h("p", null, "Whoever asks has hashed the message already. Nobody can see here what it says: approve only if you know this digest from somewhere you trust."))) };
  }
  if (type === "eip712") {
    const b = typed(input);
    if (b) return b;
  }
  const s = readable(input);
  const b = s !== undefined ? block(s, "text") : block(grouped(input), "hex");
  const title = (type === "eip191" ? "Ethereum message" : "Message") + (s !== undefined ? ` as text, ${size}` : ` in hex, ${size}`);
  if (type === "raw" && hash === "keccak-256" && s === undefined) {
    b.view = h("div", null, b.view, notice("warn", h("p", null, "With this hash it may be an Ethereum transaction. This page does not take it apart: compare it with what whoever asks says it is.")));
  }
  return { ...b, title };
}

// Typed data -------------------------------------------------------------------

// typed shows EIP-712 data as tables of fields. The nodes refuse documents that can
// be read in two ways, so what JSON.parse makes of them is what is signed.
function typed(input) {
  let s, d;
  try {
    s = text(input);
    d = JSON.parse(s);
  } catch {
    return undefined;
  }
  const types = d?.types;
  if (typeof types !== "object" || types === null || typeof d.primaryType !== "string" || !Array.isArray(types[d.primaryType])) return undefined;
  const raw = block(plain(s, true), "text");
  const view = h("div", { class: "typed" },
    h("h3", null, "For the application"), table(types, "EIP712Domain", d.domain, 0),
    h("h3", null, plain(d.primaryType)), table(types, d.primaryType, d.message, 0),
    h("details", null, h("summary", null, "The document as it was sent"), raw.view));
  return { title: "Ethereum typed data", view, seen: () => true };
}

function table(types, type, value, depth) {
  const fields = Array.isArray(types[type]) ? types[type] : [];
  if (depth > 16 || typeof value !== "object" || value === null) return h("pre", { class: "text" }, plain(JSON.stringify(value)));
  const members = fields.filter((f) => Object.hasOwn(value, f.name));
  // What no type names is not signed, and the nodes refuse it; it is shown as such.
  const surplus = Object.keys(value).filter((k) => !fields.some((f) => f.name === k));
  return h("dl", { class: "fields" },
    members.map((f) => h("div", null, h("dt", null, plain(f.name), " ", h("span", { class: "type" }, plain(f.type))), h("dd", null, show(types, String(f.type), value[f.name], depth)))),
    surplus.map((k) => h("div", { class: "wrong" }, h("dt", null, plain(k)), h("dd", null, "not part of its type: this will be refused"))));
}

function show(types, type, value, depth) {
  const list = type.match(/^(.*)\[\d*\]$/);
  if (list && Array.isArray(value)) {
    return value.length === 0 ? "none" : h("ol", { class: "items" }, value.map((v) => h("li", null, show(types, list[1], v, depth + 1))));
  }
  if (Object.hasOwn(types, type)) return table(types, type, value, depth + 1);
  const s = typeof value === "string" ? value : JSON.stringify(value);
  return /^0x[0-9a-fA-F]{16,}$/.test(s) ? h("code", null, "0x", s.slice(2).match(/.{1,4}/g).map((g) => h("span", null, g))) : h("bdi", null, plain(s, true));
}

// Digests ----------------------------------------------------------------------

// digest computes what ECDSA signs, or returns undefined where this page does not:
// typed data, and algorithms that hash by themselves.
export async function digest(algorithm, type, hash, input) {
  if (!algorithm.startsWith("ecdsa-")) return type === "digest" ? input.slice(0, 32) : undefined;
  const sha = async (name) => new Uint8Array(await crypto.subtle.digest(name, input)).slice(0, 32);
  if (type === "digest") return input.slice(0, 32);
  if (type === "eip191") return keccak256(concat(utf8(`\x19Ethereum Signed Message:\n${input.length}`), input));
  if (type !== "raw") return undefined;
  switch (hash) {
    case "sha2-256":
      return sha("SHA-256");
    case "sha2-384":
      return sha("SHA-384");
    case "sha2-512":
      return sha("SHA-512");
    case "sha-256d":
      return sha256(await sha256(input));
    case "keccak-256":
      return keccak256(input);
  }
  return undefined;
}
