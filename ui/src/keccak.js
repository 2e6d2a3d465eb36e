// Keccak-256 as Ethereum uses it: Keccak as submitted to the SHA-3 competition (FIPS
// 202 without its padding bits), rate 136 bytes, capacity 64. In 64-bit BigInts:
// messages here are small.

const mask = (1n << 64n) - 1n;
const rotl = (x, n) => (n === 0n ? x : ((x << n) | (x >> (64n - n))) & mask);

// Round constants by the LFSR of FIPS 202, algorithm 5; offsets by its section 3.2.2.
const rounds = (() => {
  const out = [];
  let r = 1;
  for (let i = 0; i < 24; i++) {
    let c = 0n;
    for (let j = 0; j <= 6; j++) {
      if (r & 1) c |= 1n << BigInt((1 << j) - 1);
      r = (r << 1) ^ (r >> 7 ? 0x171 : 0);
    }
    out.push(c);
  }
  return out;
})();
const offsets = (() => {
  const out = new Array(25).fill(0n);
  for (let t = 0, x = 1, y = 0; t < 24; t++) {
    out[x + 5 * y] = BigInt((((t + 1) * (t + 2)) / 2) % 64);
    [x, y] = [y, (2 * x + 3 * y) % 5];
  }
  return out;
})();

function permute(a) {
  for (const constant of rounds) {
    const c = [0, 1, 2, 3, 4].map((x) => a[x] ^ a[x + 5] ^ a[x + 10] ^ a[x + 15] ^ a[x + 20]);
    for (let i = 0; i < 25; i++) a[i] ^= c[(i + 4) % 5] ^ rotl(c[(i + 1) % 5], 1n);
    const b = new Array(25);
    for (let x = 0; x < 5; x++) for (let y = 0; y < 5; y++) b[y + 5 * ((2 * x + 3 * y) % 5)] = rotl(a[x + 5 * y], offsets[x + 5 * y]);
    for (let i = 0; i < 25; i++) {
      const row = i - (i % 5);
      a[i] = b[i] ^ (~b[row + ((i + 1) % 5)] & mask & b[row + ((i + 2) % 5)]);
    }
    a[0] ^= constant;
  }
}

export function keccak256(message) {
  const rate = 136;
  const padded = new Uint8Array(Math.floor(message.length / rate) * rate + rate);
  padded.set(message);
  padded[message.length] |= 0x01;
  padded[padded.length - 1] |= 0x80;
  const view = new DataView(padded.buffer);
  const a = new Array(25).fill(0n);
  for (let at = 0; at < padded.length; at += rate) {
    for (let i = 0; i < rate / 8; i++) a[i] ^= view.getBigUint64(at + 8 * i, true);
    permute(a);
  }
  const out = new Uint8Array(32);
  for (let i = 0; i < 4; i++) new DataView(out.buffer).setBigUint64(8 * i, a[i], true);
  return out;
}
