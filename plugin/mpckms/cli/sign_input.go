package cli

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

const (
	// maxInput is the longest message in bytes that the engine signs.
	maxInput = 512 << 10
	// digestSize is the length in bytes of what the schemes sign.
	digestSize = 32
)

// digestSizes are the lengths in bytes of digests by the hash that made them;
// FIPS 186-5 §6.4.1 says how the longer ones are cut. Others have digestSize.
var digestSizes = map[string]int{"sha2-384": 48, "sha2-512": 64}

// messageDigest is the message type of what was hashed elsewhere.
const messageDigest = "digest"

// messageTypes are those of the engine of the same version; another one may
// know others, so the server decides.
var messageTypes = []string{"raw\tthe message itself", "digest\tmade elsewhere", "eip191\tan Ethereum signed message", "eip712\tEthereum typed data, as JSON"}

// inputFlags are the flags that say what is signed; exactly one of the first
// three is given.
type inputFlags struct {
	text, file, digest, hash, kind, format string
}

func (in *inputFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&in.text, "input", "", "the message, as text")
	flags.StringVar(&in.file, "input-file", "", "read the message from this file; - is standard input")
	flags.StringVar(&in.digest, "digest", "", "a digest made elsewhere, 64 hex digits (96 or 128 with --hash sha2-384 or sha2-512), instead of a message")
	in.registerKinds(cmd)
}

// registerKinds adds the flags that a batch has as well.
func (in *inputFlags) registerKinds(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&in.kind, "message-type", "", "what the input is: raw (default), digest, eip191 or eip712 (typed data as JSON, ecdsa-secp256k1 only)")
	flags.StringVar(&in.hash, "hash", "", "hash for the message, such as sha2-256 or keccak-256 (default: the engine's for the algorithm)")
	flags.StringVar(&in.format, "format", "", "of the signature: der, compact, ethereum or jws (default: der for ECDSA, compact otherwise)")
	// The flag's first name, which scripts may use.
	flags.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if name == "hash-algorithm" {
			name = "hash"
		}
		return pflag.NormalizedName(name)
	})
	complete(cmd, "message-type", messageTypes...)
	complete(cmd, "hash", hashes...)
	complete(cmd, "format", formats...)
}

// addKinds adds what registerKinds read to a request.
func (in *inputFlags) addKinds(body map[string]any) {
	for field, value := range map[string]string{"message_type": in.kind, "hash_algorithm": in.hash, "signature_format": in.format} {
		if value != "" {
			body[field] = value
		}
	}
}

// body is the common part of a request to sign or verify.
func (in *inputFlags) body(cmd *cobra.Command, stdin io.Reader) (map[string]any, error) {
	given := 0
	for _, flag := range []string{"input", "input-file", "digest"} {
		if cmd.Flags().Changed(flag) {
			given++
		}
	}
	if given != 1 {
		return nil, usagef(cmd, "give exactly one of --input, --input-file and --digest")
	}
	body := map[string]any{"message_type": "raw"}
	in.addKinds(body)
	var input []byte
	var err error
	switch {
	case cmd.Flags().Changed("digest"):
		body["message_type"] = messageDigest
		input, err = in.decodeDigest(cmd)
	case in.kind == messageDigest && cmd.Flags().Changed("input"):
		// Text of 32 characters would be signed as if it were a digest.
		return nil, usagef(cmd, "--message-type digest goes with --digest HEX, or with --input-file and the bytes of the digest")
	default:
		input, err = in.message(cmd, stdin)
	}
	if err != nil {
		return nil, err
	}
	body["input"] = base64.StdEncoding.EncodeToString(input)
	return body, nil
}

func (in *inputFlags) decodeDigest(cmd *cobra.Command) ([]byte, error) {
	if in.kind != "" && in.kind != messageDigest {
		return nil, usagef(cmd, "--digest is not of --message-type %s", in.kind)
	}
	size, long := digestSizes[in.hash]
	switch {
	case in.hash != "" && !long:
		return nil, usagef(cmd, "--hash %s does not go with --digest: a digest is signed as it is (sha2-384 and sha2-512 say that it is a longer one)", in.hash)
	case !long:
		size = digestSize
	}
	digest, err := hex.DecodeString(strings.TrimPrefix(in.digest, "0x"))
	if err != nil || len(digest) != size {
		return nil, usagef(cmd, "--digest takes %d hex digits (%d bytes)", 2*size, size)
	}
	return digest, nil
}

func (in *inputFlags) message(cmd *cobra.Command, stdin io.Reader) ([]byte, error) {
	if cmd.Flags().Changed("input") {
		return limited(strings.NewReader(in.text))
	}
	if in.file == "-" {
		return limited(stdin)
	}
	f, err := os.Open(in.file)
	if err != nil {
		return nil, fmt.Errorf("the message cannot be read: %w", err)
	}
	defer f.Close()
	return limited(f)
}

func limited(r io.Reader) ([]byte, error) {
	message, err := io.ReadAll(io.LimitReader(r, maxInput+1))
	if err != nil {
		return nil, fmt.Errorf("the message cannot be read: %w", err)
	}
	if len(message) == 0 {
		return nil, errors.New("the message is empty, and the engine signs none of that")
	}
	if len(message) > maxInput {
		return nil, fmt.Errorf("the message is longer than %d bytes, the most the engine takes: hash it yourself and give --digest (ed25519 takes none)", maxInput)
	}
	return message, nil
}
