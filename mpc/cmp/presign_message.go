package cmp

import (
	"vault-plugin-secrets-mpc/mpc"
)

// presignRounds is the last round of presigning. Rounds 7 and 8 of the library
// can also be abort rounds, in which parties would open their nonces to each
// other to find out who cheated; PresignParty ends the session before them, and
// no message of theirs has a shape here.
const presignRounds = 7

// presignShapes returns the messages of cmp.Presign among signers. The lengths
// follow from the parameters, as in signShapes.
func presignShapes(signers []mpc.Index) func(mpc.Message) shape {
	elGamal := mapOf(shape{"L": pointOf(), "M": pointOf()})
	// elog: the number in an ElGamal ciphertext takes a base to a point.
	elog := mapOf(shape{"A": pointOf(), "N": pointOf(), "B": pointOf(), "Z": scalarOf(), "U": scalarOf()})
	// encelg: a Paillier and an ElGamal ciphertext hide one number.
	encelg := mapOf(shape{"S": residueOf(), "D": ciphertextOf(), "Y": pointOf(), "Z": pointOf(), "T": residueOf(),
		"Z1": intOf(sizeZ1), "W": scalarOf(), "Z2": residueOf(), "Z3": intOf(sizeZN)})
	// affp: as affineShape, with the factor behind a Paillier ciphertext.
	affp := mapOf(shape{"A": ciphertextOf(), "Bx": ciphertextOf(), "By": ciphertextOf(),
		"E": residueOf(), "S": residueOf(), "F": residueOf(), "T": residueOf(),
		"Z1": intOf(sizeZ1), "Z2": intOf(sizeZY), "Z3": intOf(sizeZN), "Z4": intOf(sizeZN),
		"W": residueOf(), "Wx": residueOf(), "Wy": residueOf()})
	const hashSize, idSize = 64, 32
	shapes := map[int]shape{
		slot(mpc.Message{Round: 2, Broadcast: true}): {"K": ciphertextOf(), "G": ciphertextOf(), "Z": elGamal, "CommitmentID": bytesOf(hashSize)},
		slot(mpc.Message{Round: 2}):                  {"Proof": encelg},
		slot(mpc.Message{Round: 3}):                  {"DeltaF": ciphertextOf(), "DeltaProof": affp, "ChiF": ciphertextOf(), "ChiProof": affineShape()},
		slot(mpc.Message{Round: 4, Broadcast: true}): {"DeltaShare": scalarOf(), "ElGamalChi": elGamal},
		slot(mpc.Message{Round: 5, Broadcast: true}): {"BigGammaShare": pointOf()},
		slot(mpc.Message{Round: 5}):                  {"ProofLog": logShape()},
		slot(mpc.Message{Round: 6, Broadcast: true}): {"BigDeltaShare": pointOf(), "Proof": elog},
		slot(mpc.Message{Round: 7, Broadcast: true}): {"S": pointOf(), "Proof": elog, "DecommitmentID": bytesOf(idSize), "PresignatureID": bytesOf(idSize)},
	}
	// The broadcast of round 3 has one ciphertext for every signer but its
	// sender, under the library's name of that signer.
	toOthers := map[mpc.Index]shape{}
	for _, from := range signers {
		each := shape{}
		for _, to := range signers {
			if to != from {
				each[string([]byte{byte(to)})] = ciphertextOf()
			}
		}
		toOthers[from] = shape{"DeltaCiphertext": mapOf(each), "ChiCiphertext": mapOf(each)}
	}
	return func(m mpc.Message) shape {
		if m.Round == 3 && m.Broadcast {
			return toOthers[m.From]
		}
		return shapes[slot(m)]
	}
}
