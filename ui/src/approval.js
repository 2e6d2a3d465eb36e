// Mirror of Go package mpc/approval: the encodings of what people approve. The
// canonical encoding is a label and then every field in order, each preceded by its
// length in 4 bytes, big-endian; numbers have 8 bytes. testdata/golden/approval-v1
// holds both to the same bytes.
//
// IDs and hashes are Uint8Array here, of 16 and 32 bytes.

import { concat, equal, hex, sha256, text, unbase64url, unhex, utf8, base64url } from "./bytes.js";

export const seedSize = 32;
export const formSize = 16;

class Writer {
  parts = [];
  bytes(b) {
    const n = new Uint8Array(4);
    new DataView(n.buffer).setUint32(0, b.length);
    this.parts.push(n, b);
    return this;
  }
  text(s) {
    return this.bytes(utf8(s));
  }
  number(n) {
    const b = new Uint8Array(8);
    new DataView(b.buffer).setBigUint64(0, BigInt(n));
    return this.bytes(b);
  }
  done() {
    return concat(...this.parts);
  }
}

class Reader {
  constructor(b) {
    this.b = b;
    this.at = 0;
  }
  bytes(most) {
    if (this.b.length - this.at < 4) throw new Error("malformed: cut off");
    const n = new DataView(this.b.buffer, this.b.byteOffset + this.at, 4).getUint32(0);
    if (n > most || n > this.b.length - this.at - 4) throw new Error("malformed: a length is out of bounds");
    this.at += 4 + n;
    return this.b.slice(this.at - n, this.at);
  }
  fixed(n) {
    const b = this.bytes(n);
    if (b.length !== n) throw new Error("malformed: a field has the wrong length");
    return b;
  }
  text(most) {
    return text(this.bytes(most));
  }
  number() {
    return new DataView(this.fixed(8).buffer).getBigUint64(0);
  }
  count(most) {
    const n = this.number();
    if (n > BigInt(most)) throw new Error("malformed: a number is out of bounds");
    return Number(n);
  }
  list(most, read) {
    return Array.from({ length: this.count(most) }, read);
  }
  done() {
    if (this.at !== this.b.length) throw new Error("malformed: something follows");
  }
}

// Keys and policies ------------------------------------------------------------

// keyID is the first 16 bytes of SHA-256 over kind, public key and, of a passkey,
// relying party and credential.
export async function keyID(k) {
  const w = new Writer().text("vault-plugin-secrets-mpc approval key v1");
  w.text(k.kind).bytes(k.public).text(k.rpID ?? "").bytes(k.credential ?? new Uint8Array());
  return (await sha256(w.done())).slice(0, 16);
}

const maxText = 512;
const maxName = 128;
const maxApprovers = 16;
const maxPolicy = 128 << 10;
const maxExpiry = 7 * 24 * 3600;
const signatureKinds = ["device", "passkey", "certificate"];
const checkedKinds = ["totp", "login"];

// parsePolicy reads a marshalled policy. Every key gets its id, computed here; since
// is a BigInt. That public keys are keys is left to those who verify with them.
export async function parsePolicy(b) {
  if (b.length > maxPolicy) throw new Error("the policy is too long");
  const r = new Reader(b);
  if (r.text(maxText) !== "vault-plugin-secrets-mpc approval policy v1") throw new Error("not a policy that this page reads");
  const p = { quorum: r.count(maxApprovers), factors: r.count(5), signatureFactors: r.count(5), expiry: r.count(maxExpiry), since: r.number() };
  p.approvers = r.list(maxApprovers, () => ({
    id: r.fixed(16),
    name: r.text(maxName),
    requesters: r.list(16, () => r.text(maxText)),
    keys: r.list(8, () => ({
      kind: r.text(maxText),
      name: r.text(maxName),
      public: r.bytes(1024),
      rpID: r.text(maxText),
      origins: r.list(8, () => r.text(maxText)),
      credential: r.bytes(1023),
    })),
    checked: r.list(2, () => r.text(maxText)),
  }));
  r.done();
  for (const a of p.approvers) for (const k of a.keys) k.id = await keyID(k);
  checkPolicy(p);
  return p;
}

// checkPolicy refuses what could not be fulfilled, demands nothing, or counts
// somebody for two, as approval.Policy.Check does.
function checkPolicy(p) {
  const need = (ok, what) => {
    if (!ok) throw new Error("the policy is not a valid one: " + what);
  };
  need(p.approvers.length > 0, "it has no approvers");
  need(p.quorum >= 1 && p.quorum <= p.approvers.length, "its quorum");
  need(p.factors >= 2 && p.factors <= 5, "its number of factors");
  need(p.signatureFactors >= 1 && p.signatureFactors <= Math.min(p.factors, 3), "its number of signature factors");
  need(p.expiry >= 60, "its expiry");
  const unique = (all, what) => need(new Set(all).size === all.length, what + " there twice");
  unique(p.approvers.map((a) => hex(a.id)), "an approver is");
  unique(p.approvers.map((a) => a.name), "a name is");
  unique(p.approvers.flatMap((a) => a.keys.map((k) => hex(k.public))), "a key is");
  for (const a of p.approvers) {
    need(a.id.some((x) => x !== 0) && isName(a.name), "an approver without a name");
    need(a.keys.length > 0 && a.requesters.length > 0, "an approver without keys or identifiers");
    const identifiers = a.requesters.every((s, i, all) => /^(entity|identity|token):[!-~]+$/.test(s) && (i === 0 || all[i - 1] < s));
    need(identifiers || (a.requesters.length === 1 && a.requesters[0] === "none"), "identifiers of who asks");
    unique(a.checked, "a factor is");
    need(a.checked.every((k) => checkedKinds.includes(k)), "a kind of factor");
    for (const k of a.keys) {
      const passkey = k.kind === "passkey";
      need(signatureKinds.includes(k.kind) && isName(k.name), "a kind of key");
      need(passkey === (k.rpID !== "") && passkey === k.origins.length > 0 && passkey === k.credential.length > 0, "a passkey");
      need(/^[!-~]*$/.test(k.rpID) && k.origins.every((o) => /^(https:\/\/[!-~]+|http:\/\/localhost(:\d+)?)$/.test(o)), "an origin");
    }
    const signature = new Set(a.keys.map((k) => k.kind)).size;
    need(signature + a.checked.length >= p.factors && signature >= p.signatureFactors, "an approver with too few factors");
  }
}

// isName mirrors CheckName: what people see is what is there.
const isName = (s) => s !== "" && utf8(s).length <= maxName && s === s.trim() && !/[\p{C}\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0]|(?! )\p{Z}/u.test(s);

function less(a, b) {
  for (let i = 0; i < Math.min(a.length, b.length); i++) if (a[i] !== b[i]) return a[i] < b[i];
  return a.length < b.length;
}

// byKey finds the approver who has a key, and the key.
export function byKey(p, id) {
  for (const approver of p.approvers) {
    const key = approver.keys.find((k) => equal(k.id, id));
    if (key) return { approver, key };
  }
  return undefined;
}

// Statements -------------------------------------------------------------------

const zero32 = new Uint8Array(32);

// marshalStatement encodes what one approver signs. s has the fields of
// approval.Subject and: decision, approver.
export function marshalStatement(s) {
  const w = new Writer().text("vault-plugin-secrets-mpc approval statement v1");
  w.text(s.action).text(s.decision).bytes(sized(s.approver, 16)).bytes(sized(s.mount, 16)).bytes(sized(s.account, 16));
  w.bytes(s.publicKey).bytes(sized(s.request, 16)).text(s.requester).text(s.requesterName).text(s.algorithm);
  w.text(s.messageType).text(s.hash).bytes(sized(s.message ?? zero32, 32)).text(s.derivationPath).text(s.taprootTweak);
  w.bytes(sized(s.policy, 32)).bytes(sized(s.nextPolicy ?? zero32, 32)).number(s.epoch).number(s.expires);
  return w.done();
}

function sized(b, n) {
  if (b.length !== n) throw new Error(`a field of the statement has ${b.length} bytes instead of ${n}`);
  return b;
}

// deviceMessage is what a device key signs, with SHA-256, for a statement's hash.
export function deviceMessage(hash) {
  return new Writer().text("vault-plugin-secrets-mpc approval by device v1").bytes(sized(hash, 32)).done();
}

// openMessage is what a device key signs to see a request; now is Unix seconds.
export function openMessage(mount, request, form, key, now) {
  const w = new Writer().text("vault-plugin-secrets-mpc approval open v1");
  return w.bytes(sized(mount, 16)).bytes(sized(request, 16)).bytes(sized(form, formSize)).bytes(sized(key, 16)).number(now).done();
}

// Enrolment --------------------------------------------------------------------

// enrolMessage is what a new device key signs; ids are the IDs of all keys that are
// enrolled with it, in any order.
export function enrolMessage(mount, enrolment, approver, ids) {
  const w = new Writer().text("vault-plugin-secrets-mpc approval enrolment v1");
  w.bytes(sized(mount, 16)).bytes(sized(enrolment, 16)).bytes(sized(approver, 16)).number(ids.length);
  for (const id of [...ids].sort((a, b) => (less(a, b) ? -1 : 1))) w.bytes(sized(id, 16));
  return w.done();
}

// enrolCode is the code that people compare: eight digits in two groups.
export async function enrolCode(message) {
  const sum = await sha256(concat(utf8("code"), message));
  const n = String(new DataView(sum.buffer).getBigUint64(0) % 100_000_000n).padStart(8, "0");
  return n.slice(0, 4) + "-" + n.slice(4);
}

// The moving code --------------------------------------------------------------

async function mac(seed, message) {
  const key = await crypto.subtle.importKey("raw", sized(seed, seedSize), { name: "HMAC", hash: "SHA-256" }, false, ["sign"]);
  return new Uint8Array(await crypto.subtle.sign("HMAC", key, message));
}

// formAt derives the form of period number n.
export async function formAt(seed, request, n) {
  const w = new Writer().text("vault-plugin-secrets-mpc approval code v1").bytes(sized(request, 16)).number(n);
  return (await mac(seed, w.done())).slice(0, formSize);
}

// period is the number of the period that a time is in; all in milliseconds.
export const period = (created, now, length) => (now <= created ? 0 : Math.floor((now - created) / length));

// progressProof is what a display shows to be told of a request's progress.
export const progressProof = (seed, request) =>
  mac(seed, new Writer().text("vault-plugin-secrets-mpc approval progress v1").bytes(sized(request, 16)).done());

export const link = (base, request, form) => `${base}#r=${hex(request)}&f=${base64url(form)}`;

// parseLink reads request and form, from a link or from what stands behind its "#";
// undefined for anything else.
export function parseLink(s) {
  if (s.length > 2048) return undefined;
  const v = new URLSearchParams(s.slice(s.indexOf("#") + 1));
  if (v.getAll("r").length !== 1 || v.getAll("f").length !== 1) return undefined;
  try {
    return { request: unhex(v.get("r"), 16), form: unbase64url(v.get("f"), formSize) };
  } catch {
    return undefined;
  }
}
