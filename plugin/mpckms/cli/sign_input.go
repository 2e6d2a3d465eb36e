package cli

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
)

const (
	// maxInput is the longest message in bytes: its base64 form is 1 MiB,
	// the longest JSON string Vault accepts.
	maxInput = 768 << 10
	// digestSize is the length in bytes of what the schemes sign.
	digestSize = 32
)

// inputFlags are the flags that say what is signed; exactly one of the first
// three is given.
type inputFlags struct {
	text, file, digest, hash string
}

func (in *inputFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&in.text, "input", "", "the message, as text")
	flags.StringVar(&in.file, "input-file", "", "read the message from this file; - is standard input")
	flags.StringVar(&in.digest, "digest", "", "a digest made elsewhere, 64 hex digits, instead of a message")
	flags.StringVar(&in.hash, "hash-algorithm", "", "hash for the message, such as sha2-256 or keccak-256 (default: the engine's for the algorithm)")
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
	if cmd.Flags().Changed("digest") {
		if in.hash != "" {
			return nil, usagef(cmd, "--hash-algorithm does not go with --digest: a digest is signed as it is")
		}
		digest, err := hex.DecodeString(strings.TrimPrefix(in.digest, "0x"))
		if err != nil || len(digest) != digestSize {
			return nil, usagef(cmd, "--digest takes %d hex digits (%d bytes)", 2*digestSize, digestSize)
		}
		return map[string]any{
			"input": base64.StdEncoding.EncodeToString(digest), "message_type": "digest",
		}, nil
	}
	message, err := in.message(cmd, stdin)
	if err != nil {
		return nil, err
	}
	body := map[string]any{
		"input": base64.StdEncoding.EncodeToString(message), "message_type": "raw",
	}
	if in.hash != "" {
		body["hash_algorithm"] = in.hash
	}
	return body, nil
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
	if len(message) > maxInput {
		return nil, fmt.Errorf("the message is longer than %d bytes, the most Vault takes: hash it yourself and give --digest", maxInput)
	}
	return message, nil
}
