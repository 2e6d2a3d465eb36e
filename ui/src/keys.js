// What this browser keeps: its device keys, and the accounts it has seen.
//
// A device key is ECDSA on P-256. WebCrypto makes it as not extractable: scripts can
// sign with it while they run on this origin, and nobody reads it. It is kept in
// IndexedDB, under this origin.

import { keyID } from "./approval.js";
import { base64, hex } from "./bytes.js";

const algorithm = { name: "ECDSA", namedCurve: "P-256" };

// makeDevice makes a device key.
export async function makeDevice() {
  const pair = await crypto.subtle.generateKey(algorithm, false, ["sign", "verify"]);
  const spki = new Uint8Array(await crypto.subtle.exportKey("spki", pair.publicKey));
  return { key: pair.privateKey, public: spki, id: await keyID({ kind: "device", public: spki }) };
}

// sign returns r‖s, 64 bytes, over SHA-256 of a message, in base64.
export async function sign(key, message) {
  return base64(new Uint8Array(await crypto.subtle.sign({ name: "ECDSA", hash: "SHA-256" }, key, message)));
}

function open() {
  return new Promise((resolve, reject) => {
    const r = indexedDB.open("mpc-approvals", 1);
    r.onupgradeneeded = () => {
      r.result.createObjectStore("devices", { keyPath: "id" });
      r.result.createObjectStore("accounts", { keyPath: "id" });
    };
    r.onsuccess = () => resolve(r.result);
    r.onerror = () => reject(new Error("This browser keeps nothing for this page. Private windows often do not; use an ordinary one."));
  });
}

// run does one thing with one store, and is done when it is on disk.
async function run(store, mode, f) {
  const db = await open();
  try {
    return await new Promise((resolve, reject) => {
      const t = db.transaction(store, mode, { durability: "strict" });
      const r = f(t.objectStore(store));
      t.oncomplete = () => resolve(r.result);
      t.onabort = t.onerror = () => reject(t.error ?? new Error("storing failed"));
    });
  } finally {
    db.close();
  }
}

// Devices: { id: hex of the key's ID, mount: hex, address of the mount, key, public,
// approver, approverID: hex, name, passkeys: [{ id: hex of the key's ID, transports }],
// created: ms, pending: { enrolment, secret, code, expires } until it is confirmed }.

// devices lists those that were enrolled at an address, the newest first.
export async function devices(address) {
  const all = await run("devices", "readonly", (s) => s.getAll());
  return all.filter((d) => d.address === address).sort((a, b) => b.created - a.created);
}
export const keepDevice = (d) => run("devices", "readwrite", (s) => s.put(d));
export const dropDevice = (id) => run("devices", "readwrite", (s) => s.delete(id));

// seenBefore compares an account with what this browser has seen. It returns what is
// odd: "key", where the account had another public key, "name", where another account
// had its name; or "new" for the first time, or "known".
export async function seenBefore(mount, account, name, publicKey) {
  const all = (await run("accounts", "readonly", (s) => s.getAll())).filter((a) => a.mount === hex(mount));
  const known = all.find((a) => a.account === hex(account));
  if (known && known.publicKey !== hex(publicKey)) return "key";
  if (all.some((a) => a.account !== hex(account) && a.name === name)) return "name";
  return known ? "known" : "new";
}

// remember keeps an account, after its approver has answered. A public key that is
// kept is never replaced: that of an account does not change.
export async function remember(mount, account, name, publicKey) {
  const id = hex(mount) + hex(account);
  const known = await run("accounts", "readonly", (s) => s.get(id));
  if (known && known.publicKey !== hex(publicKey)) return;
  await run("accounts", "readwrite", (s) => s.put({ id, mount: hex(mount), account: hex(account), name, publicKey: hex(publicKey) }));
}
