// What the signer does when an engine misbehaves. This engine is a fake with one
// private key; the real one is asked by sign-transaction.mjs.

import assert from "node:assert/strict";
import { createServer } from "node:http";
import { after, before, beforeEach, test } from "node:test";
import {
  AbstractProvider, Network, SigningKey, Transaction, Wallet,
  computeAddress, hexlify, keccak256, parseEther, verifyMessage,
} from "ethers";
import { MpcSigner, VaultError } from "./mpc-signer.mjs";

const to = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed";
let server, address, key, requests, answers, account;

before(async () => {
  server = createServer(async (request, response) => {
    let text = "";
    for await (const part of request) text += part;
    const body = text && JSON.parse(text);
    requests.push({ path: request.url, body, headers: request.headers });
    const [status, answer] = answers.shift() ?? [200, serve(request.url, body)];
    response.writeHead(status).end(typeof answer === "string" ? answer : JSON.stringify(answer));
  });
  await new Promise((ready) => server.listen(0, "127.0.0.1", ready));
  address = `http://127.0.0.1:${server.address().port}/`;
});
after(() => server.close());
beforeEach(() => {
  key = new SigningKey(Wallet.createRandom().privateKey);
  [requests, answers] = [[], []];
  account = { public_key_hex: key.compressedPublicKey.slice(2), addresses: { ethereum: computeAddress(key) } };
});

function serve(url, body) {
  if (url === "/v1/mpc/accounts/hot") return { data: account };
  assert.equal(url, "/v1/mpc/sign/hot");
  assert.equal(body.signature_format, "ethereum");
  assert.equal(body.hash_algorithm, "keccak-256");
  const signature = key.sign(keccak256(Buffer.from(body.input, "base64")));
  return { data: { signature_hex: signature.serialized.slice(2) } };
}

const make = (more) => new MpcSigner({ address, token: "t", account: "hot", ...more });
const transfer = { type: 2, chainId: 1n, nonce: 0, to, value: 1n, gasLimit: 21000n, maxFeePerGas: 2n, maxPriorityFeePerGas: 1n };

test("a transaction is signed", async () => {
  const signer = make({ namespace: "team" });
  const raw = await signer.signTransaction({ ...transfer, from: await signer.getAddress() });
  const signed = Transaction.from(raw);
  assert.equal(signed.from, computeAddress(key));
  assert.equal(signed.value, 1n);
  assert.equal(requests[1].headers["x-vault-token"], "t");
  assert.equal(requests[1].headers["x-vault-namespace"], "team");
  assert.match(requests[1].body.request_id, /^[0-9a-f-]{36}$/);
});

// Answers what sendTransaction asks, and keeps what it sends.
class Chain extends AbstractProvider {
  sent = [];
  constructor() { super(Network.from(1n)); }
  async _detectNetwork() { return Network.from(1n); }
  async getTransactionCount() { return 7; }
  async estimateGas() { return 21000n; }
  async getFeeData() { return { maxFeePerGas: 2n, maxPriorityFeePerGas: 1n }; }
  async broadcastTransaction(raw) { this.sent.push(raw); return { raw }; }
}

test("sendTransaction of ethers works with it", async () => {
  const chain = new Chain();
  await make().connect(chain).sendTransaction({ type: 2, to, value: parseEther("1"), maxFeePerGas: 2n, maxPriorityFeePerGas: 1n });
  const sent = Transaction.from(chain.sent[0]);
  assert.equal(sent.from, computeAddress(key));
  assert.equal(sent.nonce, 7);
  chain.destroy();
});

test("an older type of transaction", async () => {
  const raw = await make().signTransaction({ type: 0, chainId: 5n, nonce: 1, to, value: 1n, gasLimit: 21000n, gasPrice: 1n });
  assert.equal(Transaction.from(raw).from, computeAddress(key)); // EIP-155
});

test("somebody else's sender is refused before anything is signed", async () => {
  await assert.rejects(make().signTransaction({ ...transfer, from: to }), /this account is/);
  assert.equal(requests.filter((r) => r.path.includes("/sign/")).length, 0);
});

test("a signature of another key, or of something else, is not given out", async () => {
  const signer = make();
  await signer.getAddress();
  const other = new SigningKey(Wallet.createRandom().privateKey);
  answers.push([200, { data: { signature_hex: other.sign(keccak256("0x01")).serialized.slice(2) } }]);
  await assert.rejects(signer.signTransaction(transfer), /the account is/);
  answers.push([200, { data: { signature_hex: key.sign(keccak256("0x01")).serialized.slice(2) } }]);
  await assert.rejects(signer.signTransaction(transfer), /something else/);
});

test("an address that is not the key's is not believed", async () => {
  account.addresses.ethereum = to;
  await assert.rejects(make().getAddress(), /its public key/);
});

test("an engine that tells no address is older, no liar", async () => {
  delete account.addresses;
  assert.equal(await make().getAddress(), computeAddress(key));
});

test("an account with another algorithm is refused", async () => {
  account.public_key_hex = hexlify(new Uint8Array(32)).slice(2);
  await assert.rejects(make().getAddress(), /ecdsa-secp256k1/);
});

test("a wait for auxiliary keys repeats the same request", async () => {
  const signer = make();
  await signer.getAddress();
  answers.push([409, { errors: ["1 error occurred:\n\t* auxiliary keys are still being made (local-1 40 %)\n\n"] }]);
  await signer.signTransaction(transfer);
  assert.equal(requests[1].body.request_id, requests[2].body.request_id);
  answers.push([409, { errors: ["account is frozen"] }]);
  await assert.rejects(signer.signTransaction(transfer), (e) => e instanceof VaultError && e.status === 409 && /frozen/.test(e.message));
});

test("pages of a proxy are not quoted, names reach no other path", async () => {
  answers.push([502, "<html>"]);
  await assert.rejects(make().getAddress(), (e) => e.status === 502 && !e.message.includes("<html>"));
  for (const account of ["", "../sys/seal", "a/freeze", "a?b"]) assert.throws(() => make({ account }), /account name/);
});

test("the token is not in what is printed", async () => {
  const { inspect } = await import("node:util");
  assert(!inspect(make({ token: "hvs.secret" }), { showHidden: true, depth: 5 }).includes("hvs.secret"));
});

test("a message that the engine signed as something else is noticed", async () => {
  const signer = make();
  await signer.getAddress();
  const wallet = new Wallet(key);
  answers.push([200, { data: { signature_hex: (await wallet.signMessage("hello")).slice(2) } }]);
  assert.equal(verifyMessage("hello", await signer.signMessage("hello")), wallet.address);
  answers.push([200, { data: { signature_hex: key.sign(keccak256(Buffer.from("hello"))).serialized.slice(2) } }]);
  await assert.rejects(signer.signMessage("hello"), /something else/);
});
