package cli

import (
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
)

// csrDoc is the JSON document of `account csr`.
type csrDoc struct {
	Name      string `json:"name"`
	CSR       string `json:"csr"` // PEM
	PublicKey string `json:"public_key,omitempty"`
	File      string `json:"file,omitempty"`
}

// csrFields are the subject and the names of a request, by field of the API.
type csrFields struct {
	commonName, template string
	lists                map[string]*[]string
}

func (f *csrFields) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.commonName, "common-name", "", "the subject's common name")
	f.lists = map[string]*[]string{}
	for _, flag := range []struct{ name, field, usage string }{
		{"organization", "organization", "the subject's organization"},
		{"organizational-unit", "organizational_unit", "the subject's organizational unit"},
		{"country", "country", "the subject's country, two letters"},
		{"locality", "locality", "the subject's city"},
		{"province", "province", "the subject's state or province"},
		{"alt-name", "alt_names", "a DNS name or e-mail address"},
		{"ip-san", "ip_sans", "an IP address"},
		{"uri-san", "uri_sans", "a URI"},
	} {
		f.lists[flag.field] = flags.StringArray(flag.name, nil, flag.usage+"; may be repeated")
	}
	flags.StringVar(&f.template, "template", "", "PEM file of another request, whose subject and extensions are taken over")
}

func (f *csrFields) body(cmd *cobra.Command) (map[string]any, error) {
	body := map[string]any{}
	if f.commonName != "" {
		body["common_name"] = f.commonName
	}
	for field, list := range f.lists {
		if len(*list) > 0 {
			body[field] = *list
		}
	}
	if f.template == "" {
		if len(body) == 0 {
			return nil, usagef(cmd, "who is the certificate for? Give --common-name, --alt-name or another of the subject's flags, or --template")
		}
		return body, nil
	}
	if len(body) > 0 {
		return nil, usagef(cmd, "--template takes the subject and the names from the file: give no others")
	}
	raw, err := readFile(f.template, maxInputFile)
	if err != nil {
		return nil, fmt.Errorf("the template cannot be read: %w", err)
	}
	if block, _ := pem.Decode(raw); block == nil || block.Type != "CERTIFICATE REQUEST" && block.Type != "NEW CERTIFICATE REQUEST" {
		return nil, fmt.Errorf("%s is no certificate request in PEM", f.template)
	}
	return map[string]any{"csr": string(raw)}, nil
}

func (a *app) accountCSRCommand() *cobra.Command {
	var fields csrFields
	var out string
	cmd := &cobra.Command{
		Use:   "csr NAME (--common-name NAME … | --template FILE) [--out FILE]",
		Short: "Make a certificate request for an account's key",
		Long: `Make a certificate request (PKCS#10) for the key of an ecdsa-p256 or ed25519
account, signed by it. The PEM goes to standard output, or to a new file.`,
		Example: `  mpckms account csr web --common-name www.example.com --alt-name www.example.com --out web.csr
  mpckms account csr web --template old.csr`,
		Args:              accountArg,
		ValidArgsFunction: a.accountNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			body, err := fields.body(cmd)
			if err != nil {
				return err
			}
			if out != "" {
				if err := absent(out); err != nil {
					return err
				}
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			doc := csrDoc{Name: args[0]}
			_, err = c.do(cmd.Context(), request{
				what:       fmt.Sprintf("make a certificate request for account %q", args[0]),
				capability: capUpdate, path: "accounts/" + args[0] + "/csr", body: body, account: args[0],
			}, &doc)
			if err != nil {
				return err
			}
			if block, _ := pem.Decode([]byte(doc.CSR)); block == nil {
				return &refusal{what: fmt.Sprintf("the answer about account %q holds no certificate request", args[0]), cause: errors.New("no PEM in it")}
			}
			if out != "" {
				if err := writeNew(out, []byte(doc.CSR), 0o644); err != nil {
					return err
				}
				doc.File = out
			}
			return a.print(doc, doc.write)
		},
	}
	fields.register(cmd)
	cmd.Flags().StringVar(&out, "out", "", "file for the request; must not exist")
	return cmd
}

func (doc csrDoc) write(t *text) {
	if doc.File != "" {
		t.pairs("", "Account", doc.Name, "Certificate request", doc.File)
		return
	}
	t.block(doc.CSR)
}
