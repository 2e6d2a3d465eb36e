// Mirror of Go package mpc/eip712: the digest of Ethereum typed data (EIP-712) from
// the JSON of eth_signTypedData_v4. What Go refuses is refused here, and the other
// way round; vectors and random documents hold the two to that (plugin/e2e).
//
// Every value is checked, hashed and kept for display in one step, so that what is
// shown is what was hashed: in the order of its type, with nothing left out.

import { concat, hex, text, utf8 } from "./bytes.js";
import { inside, Numeral, parse, Unreadable } from "./json.js";
import { keccak256 } from "./keccak.js";

const maxSize = 512 << 10; // bytes
const maxTypes = 128;
const maxTypesSize = 64 << 10; // characters of all their names
const maxIdentifier = 128;
const maxTypeName = 256;
const maxBareNumber = (1n << 53n) - 1n; // what wallets that use JSON.parse read exactly

const domainType = "EIP712Domain";
const domainMembers = new Map([["name", "string"], ["version", "string"], ["chainId", "uint256"], ["verifyingContract", "address"], ["salt", "bytes32"]]);

function check(ok, what, path) {
  if (!ok) throw new Unreadable(what, path);
}

// read takes a document apart. It returns its digest, the message's type, and domain
// and message as nodes: { type, word } with members [{ name, node }] of a struct,
// items [node] of a list, or value, a text, and kind. Where the document writes a
// number in hex, written is that.
export function read(document) {
  check(document.length <= maxSize, `The document has ${document.length} bytes, more than ${maxSize}.`);
  let s;
  try {
    s = text(document);
  } catch {
    throw new Unreadable("The document is not UTF-8.");
  }
  const top = parse(s);
  check(top instanceof Map, "The document is not a JSON object.");
  exactly(top, ["types", "primaryType", "domain", "message"]);
  const types = inside("types", () => parseTypes(top.get("types")));
  const primaryType = top.get("primaryType");
  check(typeof primaryType === "string", "must be a string.", "primaryType");
  check(primaryType !== domainType, `must be the message's type, not ${domainType}.`, "primaryType");
  check(types.has(primaryType), "is not among types.", "primaryType");
  inside("types", () => inside(domainType, () => checkDomain(types.get(domainType))));
  const domain = inside("domain", () => struct(types.get(domainType), top.get("domain")));
  const message = inside("message", () => struct(types.get(primaryType), top.get("message")));
  return { primaryType, domain, message, digest: keccak256(concat(Uint8Array.of(0x19, 0x01), domain.word, message.word)) };
}

function exactly(object, names) {
  for (const name of names) check(object.has(name), "is missing.", name);
  for (const name of object.keys()) check(names.includes(name), "is not expected here.", name);
}

// Types ------------------------------------------------------------------------

const identifier = (s) => s.length <= maxIdentifier && /^[A-Za-z_$][A-Za-z0-9_$]*$/.test(s);
// Colons are in use ("Application:Action"), where a type stands alone.
const typeName = (s) => s.length <= maxIdentifier && !s.includes("$") && s.split(":").every(identifier);
// A struct's name must not look like that of an elementary type.
const elementary = (s) => /^(uint|int|bytes|bool|address|string)[0-9]*$/.test(s);

// parseTypes returns the struct types by name: { name, members: [{ name, type }] },
// with type as parseType has it.
function parseTypes(v) {
  check(v instanceof Map, "must be an object.");
  check(v.size <= maxTypes, `has ${v.size} types, more than ${maxTypes}.`);
  const types = new Map();
  for (const name of v.keys()) {
    check(typeName(name), `is not a name for a type: letters, digits and _, at most ${maxIdentifier}.`, name);
    check(!elementary(name), "is the name of an elementary type.", name);
    types.set(name, { name, members: [] });
  }
  let size = 0;
  for (const [name, def] of types) {
    inside(name, () => define(types, def, v.get(name)));
    size += def.members.reduce((n, m) => n + m.name.length + m.type.text.length, name.length);
  }
  check(size <= maxTypesSize, `has more than ${maxTypesSize} bytes of names.`);
  return types;
}

function define(types, def, list) {
  check(Array.isArray(list) && list.length > 0, 'must be a list of members, each {"name": …, "type": …}.');
  list.forEach((entry, i) => inside(`[${i}]`, () => {
    check(entry instanceof Map, 'must be {"name": …, "type": …}.');
    exactly(entry, ["name", "type"]);
    const name = entry.get("name");
    check(typeof name === "string" && identifier(name), `is not a name: letters, digits, _ and $, at most ${maxIdentifier}.`, "name");
    const type = entry.get("type");
    check(typeof type === "string" && type.length <= maxTypeName, `must be a string of at most ${maxTypeName} bytes.`, "type");
    const parsed = parseType(types, type);
    check(parsed, "is neither elementary nor among types.", "type");
    check(!def.members.some((m) => m.name === name), "has the name of an earlier member.");
    check(parsed.kind !== "struct" || !def.name.includes(":"), "has a type from types, which a type with a colon in its name cannot refer to.");
    def.members.push({ name, type: parsed });
  }));
}

// parseType reads a type's name: { text, base, kind, size, def, arrays }. size is in
// bits for uint and int, in bytes for bytesN; arrays are the lengths around it, the
// innermost first, 0 for any. undefined: there is no such type.
function parseType(types, name) {
  const parts = name.match(/^([^[]*)((?:\[(?:[1-9][0-9]{0,8})?\])*)$/);
  if (!parts) return undefined;
  const base = parts[1];
  const type = { text: name, base, arrays: Array.from(parts[2].matchAll(/\[(\d*)\]/g), (m) => Number(m[1])) };
  if (["bool", "address", "bytes", "string"].includes(base)) return { ...type, kind: base };
  const sized = base.match(/^(uint|int|bytes)([1-9][0-9]{0,2})$/);
  if (sized) {
    const size = Number(sized[2]);
    const fits = sized[1] === "bytes" ? size <= 32 : size <= 256 && size % 8 === 0;
    return fits ? { ...type, kind: sized[1] === "bytes" ? "bytesN" : sized[1], size } : undefined;
  }
  if (!types.has(base) || base === domainType || base.includes(":")) return undefined;
  return { ...type, kind: "struct", def: types.get(base) };
}

// checkDomain: EIP-712's members in EIP-712's order. One that this page does not know
// might be one to warn of.
function checkDomain(def) {
  check(def, "is missing.");
  const order = [...domainMembers.keys()];
  let last = 0;
  for (const { name, type } of def.members) {
    check(domainMembers.has(name), "is not a member of a domain.", name);
    check(type.text === domainMembers.get(name), `must have the type ${domainMembers.get(name)}.`, name);
    check(order.indexOf(name) >= last, "is out of order.", name);
    last = order.indexOf(name);
  }
}

// typeHash is keccak256 of encodeType: the definition, and those that it refers to
// over any number of steps, sorted by name.
function typeHash(def) {
  if (!def.hash) {
    const reached = new Set([def]); // grows while it is gone through
    for (const d of reached) for (const m of d.members) if (m.type.def) reached.add(m.type.def);
    reached.delete(def);
    const rest = [...reached].sort((a, b) => (a.name < b.name ? -1 : 1));
    def.hash = keccak256(utf8([def, ...rest].map((d) => `${d.name}(${d.members.map((m) => `${m.type.text} ${m.name}`).join(",")})`).join("")));
  }
  return def.hash;
}

// Values -----------------------------------------------------------------------

// struct is hashStruct, and the node of a struct.
function struct(def, v) {
  check(v instanceof Map, `must be an object of type ${def.name}.`);
  exactly(v, def.members.map((m) => m.name));
  const members = def.members.map(({ name, type }) => ({ name, node: inside(name, () => node(type, type.arrays.length, v.get(name))) }));
  return { type: def.name, members, word: keccak256(concat(typeHash(def), ...members.map((m) => m.node.word))) };
}

// node checks and encodes a value of a type with so many of its arrays around it.
function node(type, arrays, v) {
  if (arrays > 0) {
    const length = type.arrays[arrays - 1];
    check(Array.isArray(v), "must be a list.");
    check(length === 0 || v.length === length, `must have ${length} elements, not ${v.length}.`);
    const items = v.map((x, i) => inside(`[${i}]`, () => node(type, arrays - 1, x)));
    const lengths = type.arrays.slice(0, arrays).map((n) => `[${n || ""}]`);
    return { type: type.base + lengths.join(""), items, word: keccak256(concat(...items.map((x) => x.word))) };
  }
  if (type.kind === "struct") return struct(type.def, v);
  return { type: type.base, kind: type.kind, ...encoders[type.kind](v, type.size) };
}

const word = (b, at) => {
  const out = new Uint8Array(32);
  out.set(b, at);
  return out;
};

// encoders return the 32 bytes that stand for a value, and the value as a text.
const encoders = {
  bool(v) {
    check(typeof v === "boolean", "must be true or false.");
    return { value: String(v), word: word([v ? 1 : 0], 31) };
  },
  uint: (v, bits) => integer(v, 0n, (1n << BigInt(bits)) - 1n),
  int: (v, bits) => integer(v, -(1n << BigInt(bits - 1)), (1n << BigInt(bits - 1)) - 1n),
  string(v) {
    check(typeof v === "string", "must be a string.");
    return { value: v, word: keccak256(utf8(v)) };
  },
  bytes(v) {
    return { value: v, word: keccak256(bytes(v)) };
  },
  bytesN(v, size) {
    const b = bytes(v);
    check(b.length === size, `must have ${size} bytes, not ${b.length}.`);
    return { value: v, word: word(b, 0) };
  },
  address(v) {
    const b = bytes(v);
    check(b.length === 20, "must be an address: 0x and 40 hex digits.");
    check(checksummed(v.slice(2)), "is an address whose capitals do not fit (EIP-55): one of its digits is wrong.");
    return { value: v, word: word(b, 12) };
  },
};

function bytes(v) {
  check(typeof v === "string", "must be a string.");
  check(/^0x([0-9a-fA-F]{2})*$/.test(v), "must be 0x and an even number of hex digits.");
  const out = new Uint8Array(v.length / 2 - 1);
  for (let i = 0; i < out.length; i++) out[i] = parseInt(v.slice(2 * i + 2, 2 * i + 4), 16);
  return out;
}

// integer reads a whole number exactly: a JSON number, or a string in decimal or, if
// it is not negative, 0x and hex digits. The word is its two's complement.
function integer(v, least, most) {
  const bare = v instanceof Numeral;
  check(bare || typeof v === "string", "must be a whole number, or a string with one in decimal or 0x and hex digits.");
  const s = bare ? v.text : v;
  check(/^(0x[0-9a-fA-F]{1,64}|0|-?[1-9][0-9]{0,77})$/.test(s), "is not a whole number of at most 256 bits, in decimal without leading zeros or 0x and hex digits.");
  const n = BigInt(s);
  check(!bare || (n <= maxBareNumber && n >= -maxBareNumber), "is a number beyond 2^53 - 1, which wallets and browsers round: it has to be a string.");
  check(n >= least && n <= most, "is out of the range of its type.");
  const digits = BigInt.asUintN(256, n).toString(16).padStart(64, "0");
  return { value: n.toString(), written: s.startsWith("0x") ? s : undefined, word: bytes("0x" + digits) };
}

// checksummed: the digits of an address are as EIP-55 writes them, or of one case,
// which says nothing.
function checksummed(digits) {
  const lower = digits.toLowerCase();
  if (digits === lower || digits === digits.toUpperCase()) return true;
  const hash = hex(keccak256(utf8(lower)));
  return [...digits].every((c, i) => (hash[i] >= "8" ? c === c.toUpperCase() : c === lower[i]));
}
