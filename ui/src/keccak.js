// Keccak-256 as Ethereum uses it: Keccak as submitted to the SHA-3 competition (FIPS
// 202 without its padding bits), rate 136 bytes, capacity 64. A lane of 64 bits is two
// numbers of 32, the low one first; with BigInt the type hashes of a large document took
// fifteen times as long.

// Round constants by the LFSR of FIPS 202, algorithm 5.
const constants = (() => {
  const out = [];
  let r = 1;
  for (let round = 0; round < 24; round++) {
    const lane = [0, 0];
    for (let j = 0; j <= 6; j++) {
      const bit = (1 << j) - 1;
      if (r & 1) lane[bit >> 5] |= 1 << (bit & 31);
      r = (r << 1) ^ (r >> 7 ? 0x171 : 0);
    }
    out.push(lane);
  }
  return out;
})();

// How far rho turns each lane (section 3.2.2), and where pi puts it (3.2.3).
const turns = new Array(25).fill(0);
for (let t = 0, x = 1, y = 0; t < 24; t++) {
  turns[x + 5 * y] = (((t + 1) * (t + 2)) / 2) % 64;
  [x, y] = [y, (2 * x + 3 * y) % 5];
}
const places = turns.map((_, i) => Math.floor(i / 5) + 5 * ((2 * (i % 5) + 3 * Math.floor(i / 5)) % 5));

function permute(a) {
  const b = new Int32Array(50);
  const c = new Int32Array(10);
  for (const [low, high] of constants) {
    for (let x = 0; x < 10; x++) c[x] = a[x] ^ a[x + 10] ^ a[x + 20] ^ a[x + 30] ^ a[x + 40];
    for (let x = 0; x < 10; x += 2) { // theta
      const l = c[(x + 2) % 10];
      const h = c[(x + 3) % 10];
      const dl = c[(x + 8) % 10] ^ ((l << 1) | (h >>> 31));
      const dh = c[(x + 9) % 10] ^ ((h << 1) | (l >>> 31));
      for (let y = x; y < 50; y += 10) {
        a[y] ^= dl;
        a[y + 1] ^= dh;
      }
    }
    for (let i = 0; i < 25; i++) { // rho and pi
      const n = turns[i] % 32;
      const l = a[2 * i + (turns[i] >> 5)];
      const h = a[2 * i + 1 - (turns[i] >> 5)];
      const to = 2 * places[i];
      b[to] = n === 0 ? l : (l << n) | (h >>> (32 - n));
      b[to + 1] = n === 0 ? h : (h << n) | (l >>> (32 - n));
    }
    for (let y = 0; y < 50; y += 10) { // chi
      for (let x = 0; x < 10; x++) a[y + x] = b[y + x] ^ (~b[y + ((x + 2) % 10)] & b[y + ((x + 4) % 10)]);
    }
    a[0] ^= low;
    a[1] ^= high;
  }
}

export function keccak256(message) {
  const rate = 136;
  const padded = new Uint8Array(Math.floor(message.length / rate) * rate + rate);
  padded.set(message);
  padded[message.length] |= 0x01;
  padded[padded.length - 1] |= 0x80;
  const view = new DataView(padded.buffer);
  const a = new Int32Array(50);
  for (let at = 0; at < padded.length; at += rate) {
    for (let i = 0; i < rate / 4; i++) a[i] ^= view.getInt32(at + 4 * i, true);
    permute(a);
  }
  const out = new DataView(new ArrayBuffer(32));
  for (let i = 0; i < 8; i++) out.setInt32(4 * i, a[i], true);
  return new Uint8Array(out.buffer);
}
