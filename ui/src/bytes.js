// Bytes and their texts. Everything that reads is strict: what is not canonical is an
// error, since two spellings of one thing are two things to a hash.

export const utf8 = (s) => new TextEncoder().encode(s);

// text reads UTF-8 and refuses what is not. A byte order mark is kept as a character.
export const text = (b) => new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(b);

export const hex = (b) => Array.from(b, (x) => x.toString(16).padStart(2, "0")).join("");

// unhex reads lower-case hex digits; size is the number of bytes, where it is known.
export function unhex(s, size) {
  if (typeof s !== "string" || !/^([0-9a-f]{2})*$/.test(s) || (size !== undefined && s.length !== 2 * size)) {
    throw new Error("not hex, or of the wrong length");
  }
  return Uint8Array.from({ length: s.length / 2 }, (_, i) => parseInt(s.slice(2 * i, 2 * i + 2), 16));
}

export function base64(b) {
  let s = "";
  for (let i = 0; i < b.length; i += 8192) s += String.fromCharCode(...b.subarray(i, i + 8192));
  return btoa(s);
}

export function unbase64(s) {
  const b = Uint8Array.from(atob(s), (c) => c.charCodeAt(0));
  if (base64(b) !== s) throw new Error("not base64");
  return b;
}

export const base64url = (b) => base64(b).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");

export function unbase64url(s, size) {
  if (typeof s !== "string" || !/^[A-Za-z0-9_-]*$/.test(s)) throw new Error("not base64url");
  const b = Uint8Array.from(atob(s.replaceAll("-", "+").replaceAll("_", "/")), (c) => c.charCodeAt(0));
  if (base64url(b) !== s || (size !== undefined && b.length !== size)) throw new Error("not base64url, or of the wrong length");
  return b;
}

export function concat(...parts) {
  const out = new Uint8Array(parts.reduce((n, p) => n + p.length, 0));
  let at = 0;
  for (const p of parts) {
    out.set(p, at);
    at += p.length;
  }
  return out;
}

export const equal = (a, b) => a.length === b.length && a.every((x, i) => x === b[i]);

export const sha256 = async (b) => new Uint8Array(await crypto.subtle.digest("SHA-256", b));
