// Passkeys: WebAuthn credentials, always used with user verification (face,
// fingerprint or PIN).

import { keyID } from "./approval.js";
import { base64, equal, unbase64url } from "./bytes.js";

export const supported = () => typeof PublicKeyCredential === "function" && !!navigator.credentials;

// usable reports whether a page of this origin may use a passkey of a policy.
export const usable = (k) =>
  k.kind === "passkey" && k.origins.includes(location.origin) && (location.hostname === k.rpID || location.hostname.endsWith("." + k.rpID));

// register makes a passkey, with what approve/enrol answered.
export async function register(e, approver) {
  const c = await navigator.credentials.create({
    publicKey: {
      rp: { id: e.rp_id, name: e.rp_name || e.rp_id },
      user: { id: unbase64url(e.user_id), name: e.user_name || approver, displayName: e.user_name || approver },
      challenge: unbase64url(e.challenge),
      pubKeyCredParams: [
        { type: "public-key", alg: -7 },
        { type: "public-key", alg: -257 },
      ],
      authenticatorSelection: { residentKey: "preferred", userVerification: "required" },
      attestation: "none",
      timeout: 120_000,
    },
  });
  const spki = c.response.getPublicKey?.();
  if (!spki) throw new Error("This browser does not tell the passkey's public key. A newer one does.");
  const credential = new Uint8Array(c.rawId);
  const transports = c.response.getTransports?.() ?? [];
  return {
    id: await keyID({ kind: "passkey", public: new Uint8Array(spki), rpID: e.rp_id, credential }),
    transports,
    offer: {
      attestation_object: base64(new Uint8Array(c.response.attestationObject)),
      client_data_json: base64(new Uint8Array(c.response.clientDataJSON)),
      transports,
    },
  };
}

// use asks for one of the passkeys of a policy to sign a challenge, a statement's
// hash. transports are hints by hex key ID. It returns the key used, and what goes
// with an answer.
export async function use(keys, challenge, hints) {
  const c = await navigator.credentials.get({
    publicKey: {
      challenge,
      rpId: keys[0].rpID,
      allowCredentials: keys.filter((k) => k.rpID === keys[0].rpID).map((k) => ({ type: "public-key", id: k.credential, ...hints(k) })),
      userVerification: "required",
      timeout: 120_000,
    },
  });
  const id = new Uint8Array(c.rawId);
  const key = keys.find((k) => equal(k.credential, id));
  if (!key) throw new Error("That is a passkey that the policy does not name.");
  return {
    key,
    signature: base64(new Uint8Array(c.response.signature)),
    authenticator_data: base64(new Uint8Array(c.response.authenticatorData)),
    client_data: base64(new Uint8Array(c.response.clientDataJSON)),
  };
}

// cancelled reports whether an error only says that the person did not go on.
export const cancelled = (err) => err?.name === "NotAllowedError" || err?.name === "AbortError";
