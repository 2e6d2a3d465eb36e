// Signs an Ethereum transaction, a message and typed data with a threshold account
// and lets ethers check each. Nothing is sent to any chain.
//
//   node sign-transaction.mjs ACCOUNT [DERIVATION_PATH]

import { Transaction, getAddress, parseEther, parseUnits, verifyMessage, verifyTypedData } from "ethers";
import { MpcSigner } from "./mpc-signer.mjs";

const [account, derivationPath] = process.argv.slice(2);
const { VAULT_ADDR: address, VAULT_TOKEN: token, VAULT_NAMESPACE: namespace, MPC_MOUNT: mount } = process.env;
if (!account || !address || !token) {
  console.error("usage: node sign-transaction.mjs ACCOUNT [DERIVATION_PATH], with VAULT_ADDR and VAULT_TOKEN set");
  process.exit(2);
}

const signer = new MpcSigner({ address, token, namespace, mount, account, derivationPath });
const own = await signer.getAddress();
console.log(`address     ${own}`);

// check ends the program when ethers recovers anybody else.
function check(what, recovered) {
  if (getAddress(recovered) !== own) throw new Error(`${what}: ethers recovers ${recovered}`);
  console.log(`${what.padEnd(11)} signed by ${recovered}`);
}

// An EIP-1559 transaction. With a provider, signer.sendTransaction would fill in
// nonce, gas and fees, and send it.
const raw = await signer.signTransaction({
  type: 2,
  chainId: 11155111n, // Sepolia
  nonce: 0,
  to: "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
  value: parseEther("0.01"),
  gasLimit: 21_000n,
  maxFeePerGas: parseUnits("30", "gwei"),
  maxPriorityFeePerGas: parseUnits("1", "gwei"),
});
const transaction = Transaction.from(raw);
check("transaction", transaction.from);
console.log(`hash        ${transaction.hash}`);
console.log(`raw         ${raw}`);

// EIP-191: personal_sign.
const message = "I agree to the terms of example.org ✓";
const messageSignature = await signer.signMessage(message);
check("message", verifyMessage(message, messageSignature));

// EIP-712: eth_signTypedData_v4.
const domain = { name: "Example", version: "1", chainId: 11155111n, verifyingContract: "0xCcCCccccCCCCcCCCCCCcCcCccCcCCCcCcccccccC" };
const types = {
  Person: [{ name: "name", type: "string" }, { name: "wallet", type: "address" }],
  Order: [{ name: "from", type: "Person" }, { name: "amounts", type: "uint256[]" }, { name: "note", type: "bytes" }],
};
const order = { from: { name: "Alice", wallet: own }, amounts: [1n, 2n ** 200n], note: "0xc0ffee" };
const orderSignature = await signer.signTypedData(domain, types, order);
check("typed data", verifyTypedData(domain, types, order, orderSignature));
