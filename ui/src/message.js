// What a request asks to sign, in a form that people can read, and only as far as
// this page is sure of it: it is made from the same bytes whose hash is approved.

import { concat, hex, sha256, text, utf8 } from "./bytes.js";
import { read } from "./eip712.js";
import { keccak256 } from "./keccak.js";
import { typedView } from "./typed.js";
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

// message returns { title, view, seen } for an input, its message type, and what was
// read of typed data: a document that could not be read is shown as it was sent.
export function message(input, type, hash, typed) {
  const size = `${input.length} ${input.length === 1 ? "byte" : "bytes"}`;
  if (type === "digest") {
    const b = block(grouped(input), "hex");
    return { ...b, title: `A digest, ${size}`, view: h("div", null, b.view,
      notice("warn", h("p", null, "Whoever asks has hashed the message already. Nobody can see here what it says: approve only if you know this digest from somewhere you trust."))) };
  }
  if (typed) {
    const sent = block(plain(text(input), true), "text");
    return { title: "Ethereum typed data", view: typedView(typed, sent.view), seen: () => true };
  }
  const s = readable(input);
  const b = s !== undefined ? block(s, "text") : block(grouped(input), "hex");
  const title = (type === "eip191" ? "Ethereum message" : type === "eip712" ? "Ethereum typed data, not readable:" : "Message") + (s !== undefined ? ` as text, ${size}` : ` in hex, ${size}`);
  if (type === "raw" && hash === "keccak-256" && s === undefined) {
    b.view = h("div", null, b.view, notice("warn", h("p", null, "With this hash it may be an Ethereum transaction. This page does not take it apart: compare it with what whoever asks says it is.")));
  }
  return { ...b, title };
}

// Digests ----------------------------------------------------------------------

// What accounts of an algorithm sign, and the hashes of raw messages: Go's mpc.SigningInput.
const types = new Map([
  ["ecdsa-secp256k1", ["raw", "digest", "eip191", "eip712"]],
  ["ecdsa-p256", ["raw", "digest"]],
  ["bip340-secp256k1", ["raw", "digest"]],
  ["ed25519", ["raw"]],
]);
const sha = (name) => async (input) => new Uint8Array(await crypto.subtle.digest(name, input)).slice(0, 32);
const hashes = new Map([
  ["sha2-256", sha("SHA-256")],
  ["sha2-384", sha("SHA-384")],
  ["sha2-512", sha("SHA-512")],
  ["sha-256d", async (input) => sha256(await sha256(input))],
  ["keccak-256", keccak256],
]);

// interpret works out what is signed for a message: { digest, typed }. digest is what
// ECDSA signs, or the digest that was given; algorithms that hash by themselves have
// none. typed is the document of typed data, as it was read for its digest. It throws
// where there is nothing that nodes would sign.
export async function interpret(algorithm, type, hash, input) {
  const ecdsa = algorithm.startsWith("ecdsa-");
  if (input.length === 0) throw new Error("The message is empty.");
  if (!types.get(algorithm)?.includes(type)) throw new Error("An account of this algorithm signs no messages of this type.");
  if (type === "digest") {
    const size = !ecdsa ? 32 : hash === "sha2-384" ? 48 : hash === "sha2-512" ? 64 : 32;
    if (input.length !== size) throw new Error(`A digest has ${size} bytes here, not ${input.length}.`);
    return { digest: input.slice(0, 32) };
  }
  if (type !== "raw") {
    if (hash !== "keccak-256" && hash !== "") throw new Error("Ethereum's messages are hashed by Keccak-256.");
    if (type === "eip191") return { digest: keccak256(concat(utf8(`\x19Ethereum Signed Message:\n${input.length}`), input)) };
    const typed = read(input);
    return { digest: typed.digest, typed };
  }
  if (!ecdsa) {
    if (hash !== "none") throw new Error("This algorithm hashes messages by itself.");
    return {};
  }
  if (!hashes.has(hash)) throw new Error("The message is to be hashed in a way that this page does not know.");
  return { digest: await hashes.get(hash)(input) };
}
