// Makes the test vectors eip191.json and ../eip712/testdata/eip712.json:
//
//	npm install --prefix /tmp/vectors ethers@6.17.0 @metamask/eth-sig-util@8.2.0
//	NODE_PATH=/tmp/vectors/node_modules node ethers.mjs
//
// ethers computes every digest; recursive types, which it does not take, come
// from eth-sig-util alone, and what both take must be the same for both. The
// output is the same at every run. The private key is a well-known test key.

import { createRequire } from "node:module";
import { writeFileSync } from "node:fs";

const require = createRequire(process.env.NODE_PATH + "/");
const { ethers } = require("ethers");
const sigUtil = require("@metamask/eth-sig-util");

const here = new URL(".", import.meta.url).pathname;
const wallet = new ethers.Wallet("0x" + "46".repeat(32)); // EIP-155's example key
const key = {
	public_key: wallet.signingKey.compressedPublicKey.slice(2),
	address: wallet.address,
};

// A stream of numbers that is the same at every run.
let counter = 0;
function bytes(n) {
	let out = "";
	while (out.length < 2 * n) out += ethers.id("vectors " + counter++).slice(2);
	return "0x" + out.slice(0, 2 * n);
}
const below = (n) => Number(BigInt(bytes(8)) % BigInt(n));
const pick = (list) => list[below(list.length)];

// --- EIP-191 -----------------------------------------------------------------

const messages = ["a", "hello", "Some data", "zażółć gęślą jaźń 🔑", "0x1234", " \n\t", "x".repeat(9), "x".repeat(10), "x".repeat(99), "x".repeat(100), "x".repeat(1000)]
	.map((s) => ethers.toUtf8Bytes(s));
for (const n of [1, 20, 32, 64, 256]) messages.push(ethers.getBytes(bytes(n)));
const eip191 = messages.map((m) => ({
	message: ethers.hexlify(m).slice(2),
	digest: ethers.hashMessage(m).slice(2),
	signature: wallet.signMessageSync(m).slice(2),
}));
writeFileSync(here + "eip191.json", JSON.stringify({ ...key, vectors: eip191 }, null, 1) + "\n");

// --- EIP-712 -----------------------------------------------------------------

// Raw marks a JSON number of any size, which JSON.stringify cannot write.
class Raw {
	constructor(n) { this.n = n; }
}
function write(v) {
	if (v instanceof Raw) return v.n.toString();
	if (Array.isArray(v)) return "[" + v.map(write).join(",") + "]";
	if (v !== null && typeof v === "object") return "{" + Object.entries(v).map(([k, x]) => JSON.stringify(k) + ":" + write(x)).join(",") + "}";
	return JSON.stringify(v);
}

function domain() {
	const all = { name: "Vector " + counter, version: String(below(9)), chainId: below(100000), verifyingContract: ethers.getAddress(bytes(20)), salt: bytes(32) };
	const some = Object.fromEntries(Object.entries(all).filter(() => below(3) > 0));
	return Object.keys(some).length ? some : { name: all.name };
}
const domainTypes = { name: "string", version: "string", chainId: "uint256", verifyingContract: "address", salt: "bytes32" };

function integer(signed, bits) {
	const top = 1n << BigInt(signed ? bits - 1 : bits);
	switch (below(6)) {
	case 0: return top - 1n;
	case 1: return signed ? -top : 0n;
	case 2: return signed ? -1n : 1n;
	}
	const n = BigInt(bytes(32)) % top;
	return signed && below(2) ? -n : n;
}

const strings = ["", "Alice", "zażółć", "\u0000\u001f\"\\/", "🔑 \u2028", "x".repeat(40)];
const elementary = () => pick([
	() => "uint" + 8 * (1 + below(32)), () => "int" + 8 * (1 + below(32)), () => "bytes" + (1 + below(32)),
	() => "uint256", () => "bool", () => "address", () => "bytes", () => "string",
])();

// value returns [what ethers takes, what the document says].
function value(type, types) {
	const array = type.match(/^(.*)\[(\d*)\]$/);
	if (array) {
		const n = array[2] === "" ? below(4) : Number(array[2]);
		const all = Array.from({ length: n }, () => value(array[1], types));
		return [all.map((v) => v[0]), all.map((v) => v[1])];
	}
	if (types[type]) {
		const all = types[type].map((m) => [m.name, value(m.type, types)]);
		return [Object.fromEntries(all.map(([k, v]) => [k, v[0]])), Object.fromEntries(all.map(([k, v]) => [k, v[1]]))];
	}
	const number = type.match(/^(u?)int(\d+)$/);
	if (number) {
		const n = integer(!number[1], Number(number[2]));
		// A number that JavaScript rounds has to be a string.
		const forms = [n.toString(), n >= -(2n ** 53n) + 1n && n <= 2n ** 53n - 1n ? new Raw(n) : n.toString()];
		if (n >= 0n) forms.push("0x" + n.toString(16), ethers.toBeHex(n, 32));
		return [n, pick(forms)];
	}
	const fixed = type.match(/^bytes(\d+)$/);
	if (fixed) {
		const b = bytes(Number(fixed[1]));
		return [b, below(2) ? b : "0x" + b.slice(2).toUpperCase()];
	}
	switch (type) {
	case "bool": { const b = below(2) === 1; return [b, b]; }
	case "address": { const a = ethers.getAddress(bytes(20)); return [a, pick([a, a.toLowerCase(), "0x" + a.slice(2).toUpperCase()])]; }
	case "bytes": { const b = bytes(below(80)); return [b, b]; }
	case "string": { const s = pick(strings); return [s, s]; }
	}
	throw new Error(type);
}

// Types refer to later ones only, each to the next, so that none is a loop and
// all belong to the primary type.
function randomTypes() {
	const names = ["Order", "Person", "Zebra", "_asset", "Item2", "aa"].slice(0, 1 + below(6));
	const types = {};
	names.forEach((name, i) => {
		types[name] = Array.from({ length: 1 + below(5) }, (_, k) => {
			let type = i + 1 < names.length && (k === 0 || below(3) === 0) ? names[k === 0 ? i + 1 : i + 1 + below(names.length - i - 1)] : elementary();
			for (let d = below(6) - 3; d > 0; d--) type += pick(["[]", "[1]", "[2]"]);
			return { name: pick(["a", "Owner", "_x", "$y"]) + k, type };
		});
	});
	return { primary: names[0], types };
}

const vectors = [];
function add(name, primary, types, dom, message, said) {
	const encoder = ethers.TypedDataEncoder;
	const domainFields = Object.keys(domainTypes).filter((k) => k in dom).map((k) => ({ name: k, type: domainTypes[k] }));
	const full = { types: { EIP712Domain: domainFields, ...types }, primaryType: primary, domain: dom, message: said };
	const digest = encoder.hash(dom, types, message);
	const other = sigUtil.TypedDataUtils.eip712Hash({ ...full, message: strict(primary, types, message) }, "V4");
	if ("0x" + Buffer.from(other).toString("hex") !== digest) throw new Error(name + ": ethers and eth-sig-util differ");
	vectors.push({
		name, document: write(full), domain: encoder.hashDomain(dom).slice(2), message: encoder.from(types).hash(message).slice(2),
		digest: digest.slice(2), signature: wallet.signingKey.sign(digest).serialized.slice(2),
	});
}

// strict writes a message as eth-sig-util wants it: numbers as strings.
function strict(type, types, v) {
	const array = type.match(/^(.*)\[(\d*)\]$/);
	if (array) return v.map((x) => strict(array[1], types, x));
	if (types[type]) return Object.fromEntries(types[type].map((m) => [m.name, strict(m.type, types, v[m.name])]));
	return typeof v === "bigint" ? v.toString() : v;
}

const mail = {
	Person: [{ name: "name", type: "string" }, { name: "wallet", type: "address" }],
	Mail: [{ name: "from", type: "Person" }, { name: "to", type: "Person" }, { name: "contents", type: "string" }],
};
const mailMessage = {
	from: { name: "Cow", wallet: "0xCD2a3d9F938E13CD947Ec05AbC7FE734Df8DD826" },
	to: { name: "Bob", wallet: "0xbBbBBBBbbBBBbbbBbbBbbbbBBbBbbbbBbBbbBBbB" },
	contents: "Hello, Bob!",
};
add("the example of EIP-712", "Mail", mail,
	{ name: "Ether Mail", version: "1", chainId: 1, verifyingContract: "0xCcCCccccCCCCcCCCCCCcCcCccCcCCCcCcccccccC" }, mailMessage, mailMessage);
for (let i = 0; i < 80; i++) {
	const { primary, types } = randomTypes();
	const [message, said] = value(primary, types);
	if (write(said).length < 3000) add("random " + i, primary, types, domain(), message, said);
}

const action = { "Exchange:UsdSend": [{ name: "chain", type: "string" }, { name: "amount", type: "string" }, { name: "time", type: "uint64" }] };
const actionMessage = { chain: "Testnet", amount: "12.5", time: 1717171717171n };
add("a type with a colon", "Exchange:UsdSend", action,
	{ name: "ExchangeSignTransaction", version: "1", chainId: 421614, verifyingContract: ethers.ZeroAddress }, actionMessage, { ...actionMessage, time: new Raw(1717171717171n) });

// What ethers itself sends to a wallet.
for (let i = 0; i < 20; i++) {
	const { primary, types } = randomTypes();
	const [message] = value(primary, types);
	const dom = domain();
	const payload = ethers.TypedDataEncoder.getPayload(dom, types, message);
	if (write(payload).length > 4000) continue;
	add("payload " + i, primary, types, dom, message, payload.message);
	vectors.at(-1).document = JSON.stringify(payload);
}

function recursive(name, types, primary, message) {
	const full = { types: { EIP712Domain: [{ name: "name", type: "string" }], ...types }, primaryType: primary, domain: { name }, message };
	const hash = (v) => Buffer.from(v).toString("hex");
	const digest = hash(sigUtil.TypedDataUtils.eip712Hash(full, "V4"));
	vectors.push({
		name, document: write(full), digest,
		domain: hash(sigUtil.TypedDataUtils.eip712DomainHash(full, "V4")),
		message: hash(sigUtil.TypedDataUtils.hashStruct(primary, message, full.types, "V4")),
		signature: wallet.signingKey.sign("0x" + digest).serialized.slice(2),
	});
}
recursive("a tree", { Node: [{ name: "name", type: "string" }, { name: "children", type: "Node[]" }] }, "Node",
	{ name: "root", children: [{ name: "left", children: [] }, { name: "right", children: [{ name: "leaf", children: [] }] }] });
recursive("types that refer to each other", {
	A: [{ name: "b", type: "B[]" }, { name: "n", type: "uint8" }], B: [{ name: "a", type: "A[2][]" }, { name: "c", type: "C" }], C: [{ name: "x", type: "bytes3" }],
}, "B", { a: [[{ b: [], n: "1" }, { b: [{ a: [], c: { x: "0x010203" } }], n: "2" }]], c: { x: "0xffffff" } });

writeFileSync(here + "../eip712/testdata/eip712.json", JSON.stringify({ ...key, vectors }, null, 1) + "\n");
