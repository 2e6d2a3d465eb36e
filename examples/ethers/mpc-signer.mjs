// An ethers v6 signer whose key is an ecdsa-secp256k1 account of the engine. Copy
// this file into a project that has ethers.
//
//   const signer = new MpcSigner({ address, token, account: "hot" }, provider);
//   await signer.sendTransaction({ to, value });
//
// The nodes hash what they sign (keccak-256, EIP-191, EIP-712), so that they, and
// not this program, say what a signature is for. Every signature is checked against
// the account's address before it is given out.

import { randomUUID } from "node:crypto";
import {
  AbstractSigner, Signature, Transaction, TypedDataEncoder,
  computeAddress, getAddress, getBytes, hashMessage, recoverAddress, resolveAddress, toUtf8Bytes,
} from "ethers";

// VaultError is a refusal by Vault or the engine.
export class VaultError extends Error {
  constructor(path, status, messages) {
    super(`${path}: status ${status}: ${messages.join("; ") || "no reason given"}`);
    this.name = "VaultError";
    this.status = status;
    this.messages = messages;
  }

  // ECDSA works a little later, once the nodes have made their auxiliary keys.
  get auxiliaryKeysPending() {
    return this.status === 409 && this.messages.some((m) => m.includes("auxiliary keys are still being made"));
  }
}

export class MpcSigner extends AbstractSigner {
  #options; #address; #token;

  // address and token of Vault; mount of the engine; namespace, if any; account;
  // derivationPath of a child key such as "m/0/7", if wanted; waitSeconds is how
  // long a signature may wait for the nodes' auxiliary keys.
  constructor({ address, token, mount = "mpc", namespace, account, derivationPath, waitSeconds = 180 }, provider) {
    super(provider ?? null);
    if (!address || !token) throw new Error("address and token of Vault are needed");
    if (!/^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$/.test(account ?? "")) throw new Error(`${account} is not an account name`);
    this.#token = token;
    this.#options = { address: address.replace(/\/+$/, ""), mount, namespace, account, derivationPath, waitSeconds };
  }

  connect(provider) {
    return new MpcSigner({ ...this.#options, token: this.#token }, provider);
  }

  // getAddress computes the address from the public key, and does not believe an
  // engine that says another.
  async getAddress() {
    if (this.#address) return this.#address;
    const { account, derivationPath } = this.#options;
    const key = derivationPath
      ? await this.#call(`accounts/${account}/derive`, { derivation_path: derivationPath })
      : await this.#call(`accounts/${account}`);
    if (!/^0[23][0-9a-f]{64}$/.test(key.public_key_hex ?? "")) {
      throw new Error(`account ${account} has no secp256k1 key: make it with algorithm=ecdsa-secp256k1`);
    }
    const computed = computeAddress("0x" + key.public_key_hex);
    const said = key.addresses?.ethereum;
    if (said !== undefined && getAddress(said) !== computed) {
      throw new Error(`the engine says that account ${account} has the address ${said}, its public key that of ${computed}`);
    }
    return (this.#address = computed);
  }

  async signTransaction(request) {
    const transaction = request instanceof Transaction ? request.clone() : await this.#transaction(request);
    // The whole unsigned transaction; the nodes hash it.
    transaction.signature = await this.#sign(getBytes(transaction.unsignedSerialized), { hash_algorithm: "keccak-256" }, transaction.unsignedHash);
    return transaction.serialized;
  }

  // #transaction makes a request's names addresses.
  async #transaction(request) {
    const fields = { ...request };
    if (fields.to) fields.to = await resolveAddress(fields.to, this);
    if (fields.from) {
      const [from, own] = [getAddress(await resolveAddress(fields.from, this)), await this.getAddress()];
      if (from !== own) throw new Error(`the transaction is from ${from}, this account is ${own}`);
      delete fields.from; // it follows from the signature
    }
    return Transaction.from(fields);
  }

  async signMessage(message) {
    const bytes = typeof message === "string" ? toUtf8Bytes(message) : message;
    const signature = await this.#sign(bytes, { message_type: "eip191" }, hashMessage(bytes));
    return signature.serialized;
  }

  async signTypedData(domain, types, value) {
    const named = await TypedDataEncoder.resolveNames(domain, types, value, (name) => resolveAddress(name, this));
    const payload = TypedDataEncoder.getPayload(named.domain, types, named.value);
    const hash = TypedDataEncoder.hash(named.domain, types, named.value);
    const signature = await this.#sign(toUtf8Bytes(JSON.stringify(payload)), { message_type: "eip712" }, hash);
    return signature.serialized;
  }

  // #sign asks for a signature of bytes; hash is what it has to be a signature of.
  async #sign(bytes, how, hash) {
    const { account, derivationPath, waitSeconds } = this.#options;
    const own = await this.getAddress();
    const fields = {
      ...how,
      input: Buffer.from(bytes).toString("base64"),
      signature_format: "ethereum",
      request_id: randomUUID(), // a repetition gets the same signature
    };
    if (derivationPath) fields.derivation_path = derivationPath;
    for (const end = Date.now() + waitSeconds * 1000; ; await new Promise((done) => setTimeout(done, 1000))) {
      let answer;
      try {
        answer = await this.#call(`sign/${account}`, fields);
      } catch (error) {
        if (error instanceof VaultError && error.auxiliaryKeysPending && Date.now() < end) continue;
        throw error;
      }
      const signature = Signature.from("0x" + answer.signature_hex);
      const recovered = recoverAddress(hash, signature);
      if (recovered !== own) throw new Error(`the engine's signature is of ${recovered}, or of something else than was asked for; the account is ${own}`);
      return signature;
    }
  }

  // #call reads a path of the mount, or writes fields to it.
  async #call(path, fields) {
    const { address, mount, namespace } = this.#options;
    const headers = { "X-Vault-Token": this.#token, "X-Vault-Request": "true" };
    if (namespace) headers["X-Vault-Namespace"] = namespace;
    const response = await fetch(`${address}/v1/${mount}/${path}`, {
      method: fields ? "POST" : "GET", headers, body: fields && JSON.stringify(fields),
      signal: AbortSignal.timeout(65_000),
    });
    const text = await response.text();
    let answer;
    try {
      answer = JSON.parse(text);
    } catch {
      throw new VaultError(path, response.status, ["the answer is not one of Vault's: check its address"]);
    }
    if (!response.ok) throw new VaultError(path, response.status, (answer.errors ?? []).map((m) => m.replace(/\s+/g, " ").trim()));
    return answer.data;
  }
}
