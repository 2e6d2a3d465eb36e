package cli

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"vault-plugin-secrets-mpc/approver"
	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/keyholder"
	"vault-plugin-secrets-mpc/mpc/approval"
)

// This device as an approver's: what it holds, and where.

// approvalServer carries package approver's requests. No token goes along: what
// authenticates is signed by the device.
type approvalServer struct {
	c    *client
	what string // follows "cannot"
}

var _ approver.Server = approvalServer{}

// Post implements approver.Server.
func (s approvalServer) Post(ctx context.Context, path string, in map[string]any, out any) error {
	found, err := s.c.do(ctx, request{what: s.what, capability: capUpdate, path: path, body: in}, out)
	var r *refusal
	switch {
	case errors.As(err, &r) && r.status == 403 && r.denied():
		r.advice = "Approvals need no token, so Vault has no engine at " + s.c.mount + "/ that knows them: choose another mount with\n" +
			"--mount or " + envMount + ", or another namespace with VAULT_NAMESPACE; the plugin there may also be an older one."
	case err == nil && !found:
		return &refusal{what: "cannot " + s.what, cause: errors.New("the answer is empty"), client: s.c}
	}
	return err
}

func (a *app) approvalServer(what string) (approvalServer, error) {
	k, err := a.openCaller(what)
	return approvalServer{k.c, what}, err
}

// deviceKeyring is where the key of an approver's device is kept: in the keyring of
// the operating system, or a folder of this home.
func deviceKeyring(home *keyholder.Home, inFile bool) keyholder.Keyring {
	if inFile {
		return keyholder.ApproverFileKeyring(home)
	}
	sum := sha256.Sum256([]byte(home.Dir()))
	return keyholder.SystemKeyring(keyholder.ApproverSystemScope(hex.EncodeToString(sum[:8])))
}

// approverDevice reads a device; an empty name stands for the only one.
func (a *app) approverDevice(name string) (*approver.Device, *keyholder.Home, error) {
	home, err := a.home()
	if err != nil {
		return nil, nil, err
	}
	if name == "" {
		all, err := home.ApproverDevices()
		switch {
		case err != nil:
			return nil, nil, err
		case len(all) == 0:
			return nil, nil, fmt.Errorf("this device is no approver's yet (%s has none): whoever administers approvers makes a link with 'mpckms approver enrol NAME'; then 'mpckms device enrol LINK' here", home.Dir())
		case len(all) > 1:
			return nil, nil, fmt.Errorf("several approvers' devices are known here (%s): choose one with --device", strings.Join(all, ", "))
		}
		name = all[0]
	}
	d := &approver.Device{}
	ok, err := home.ApproverDevice(name, d)
	if err != nil {
		return nil, nil, err
	}
	if !ok {
		return nil, nil, fmt.Errorf("there is no approver's device %q here: 'mpckms device factors' lists them", name)
	}
	if err := d.Check(); err != nil {
		return nil, nil, fmt.Errorf("approver's device %q: %w", name, err)
	}
	return d, home, nil
}

// enrolledDoc is the JSON document of `device enrol`.
type enrolledDoc struct {
	factorsDoc
	Enrolment string `json:"enrolment"`
	Code      string `json:"code"`
}

// factorsDoc is one device of `device factors`.
type factorsDoc struct {
	Name         string      `json:"name"`
	Approver     string      `json:"approver"`
	ApproverID   string      `json:"approver_id"`
	MountID      string      `json:"mount_id"`
	Factors      []factorDoc `json:"factors"`
	Accounts     []seenDoc   `json:"accounts"`
	KeptIn       string      `json:"kept_in"`
	EnrolledTime string      `json:"enrolled_time"`
}

type factorDoc struct {
	KeyID string        `json:"key_id"`
	Kind  approval.Kind `json:"kind"`
	Name  string        `json:"name"`
}

type seenDoc struct {
	ID        string `json:"id"`
	Name      string `json:"name"`
	PublicKey string `json:"public_key"`
	Algorithm string `json:"algorithm"`
}

func factorsOf(d *approver.Device, ring keyholder.Keyring) factorsDoc {
	doc := factorsDoc{Name: d.Name, Approver: d.ApproverName, ApproverID: d.Approver, MountID: d.Mount, Factors: []factorDoc{}, Accounts: []seenDoc{},
		KeptIn: ring.Where(), EnrolledTime: d.Created.UTC().Format(time.RFC3339)}
	for _, k := range d.Keys {
		doc.Factors = append(doc.Factors, factorDoc{k.ID, k.Kind, k.Name})
	}
	for _, id := range slices.Sorted(maps.Keys(d.Accounts)) {
		p := d.Accounts[id]
		doc.Accounts = append(doc.Accounts, seenDoc{id, p.Name, p.PublicKey, p.Algorithm})
	}
	return doc
}

func (d factorsDoc) write(t *text) {
	t.pairs("", "Device", d.Name, "Approver", d.Approver, "Approver ID", d.ApproverID, "Mount ID", d.MountID, "Enrolled", d.EnrolledTime, "Key kept in", d.KeptIn)
	rows := make([][]string, len(d.Factors))
	for i, f := range d.Factors {
		rows[i] = []string{f.KeyID, string(f.Kind), f.Name}
	}
	t.blank()
	t.table("", []string{"KEY ID", "KIND", "NAME"}, rows)
	if len(d.Accounts) == 0 {
		return
	}
	rows = make([][]string, len(d.Accounts))
	for i, s := range d.Accounts {
		rows[i] = []string{s.ID, s.Name, s.Algorithm, s.PublicKey}
	}
	t.blank()
	t.table("", []string{"ACCOUNT ID", "SEEN AS", "ALGORITHM", "PUBLIC KEY"}, rows)
}

func (a *app) deviceEnrolCommand() *cobra.Command {
	var name string
	var f certificateFlags
	cmd := &cobra.Command{
		Use:   "enrol LINK [--name NAME]",
		Short: "Make this device an approver's",
		Long: `Make a key on this device and enrol it for the approver whom the link is for. The key
never leaves the device: it is kept in the keyring of the operating system, or, where there
is none, in a file that only this user may read.

The command prints a short code, which is computed here. Whoever made the link compares it
and confirms the enrolment with it; before that the device counts for nothing. No Vault token
is needed. With --certificate and --key, or --token, the key of a certificate is enrolled as a
second factor that nodes verify.`,
		Example: `  mpckms device enrol "mpc:#e=0f…&s=…" --name laptop
  mpckms device enrol "$LINK" --name laptop --certificate ada.pem --key ada.key
  mpckms device enrol "$LINK" --name laptop --module card --token "pkcs11:token=Ada;id=%01"`,
		Args: oneArg("the link of the enrolment, in quotes"),
		RunE: func(cmd *cobra.Command, args []string) error {
			invitation, err := approver.ParseInvitation(args[0])
			if err != nil {
				return usagef(cmd, "%v", err)
			}
			if name == "" {
				host, _ := os.Hostname()
				if name, _, _ = strings.Cut(strings.ToLower(host), "."); identity.CheckName("device", name) != nil {
					name = "device"
				}
			}
			if identity.CheckName("device", name) != nil {
				return usagef(cmd, "--name %q is none: it has 1 to 64 lower-case letters, digits, dots, dashes and underscores, with a letter or digit at both ends", name)
			}
			return a.enrolDevice(cmd, invitation, name, &f)
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "what this device is called, here and in policies (default: its host name)")
	f.add(cmd)
	return cmd
}

func (a *app) enrolDevice(cmd *cobra.Command, invitation approver.Invitation, name string, f *certificateFlags) (err error) {
	what := "enrol this device"
	home, err := a.home()
	if err != nil {
		return err
	}
	if ok, err := home.ApproverDevice(name, &approver.Device{}); err != nil || ok {
		return errors.Join(err, fmt.Errorf("there is an approver's device %q here already: nothing was made; take another name with --name", name))
	}
	certificate, err := f.open(cmd, a)
	if err != nil {
		return failedTo(what, err)
	}
	defer func() { err = errors.Join(err, certificate.close()) }()
	inFile, err := a.noDeviceKeyring(home)
	if err != nil {
		return err
	}
	s, err := a.approvalServer(what)
	if err != nil {
		return err
	}
	ring := deviceKeyring(home, inFile)
	d, err := approver.Enrol(cmd.Context(), s, ring, approver.Enrolment{
		Invitation: invitation, Name: name, Certificate: certificate.factor(), CertificateName: name + " certificate", FileKeyring: inFile,
	}, time.Now())
	if err != nil {
		return failedTo(what, err)
	}
	if err := home.SetApproverDevice(name, d); err != nil {
		return fmt.Errorf("the device's keys were sent, but not what it needs to use them: begin another enrolment: %w", errors.Join(err, ring.Delete(name)))
	}
	doc := enrolledDoc{factorsOf(d, ring), d.Enrolment, d.Code}
	return a.print(doc, func(t *text) {
		doc.factorsDoc.write(t)
		t.blank()
		t.line("Code: " + doc.Code)
		t.blank()
		t.line("Read the code to whoever made the link: the device counts once they have confirmed it with")
		t.line(fmt.Sprintf("'mpckms approver confirm %s --code %s'. They must have it from you, and not from a screen of the server.", doc.Approver, doc.Code))
	})
}

// noDeviceKeyring reports whether the device's key has to go into a file, and says so.
func (a *app) noDeviceKeyring(home *keyholder.Home) (bool, error) {
	err := keyholder.ProbeKeyring(deviceKeyring(home, false))
	if err == nil {
		return false, nil
	}
	if !errors.Is(err, keyholder.ErrNoKeyring) {
		return false, err
	}
	a.note("Warning: %v", err)
	a.note("Warning: the device's key goes into a file below %s instead, in clear: whoever reads the files of this user has it.", home.Dir())
	return true, nil
}

func (a *app) deviceFactorsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "factors",
		Short: "Show what this device holds as an approver's",
		Long: `Show the approvers' devices of this home: approver, key IDs and the accounts they have seen.
Compare the key IDs with those in an account's policy ('mpckms account policy show'): against
a server that lies, that is what shows that the device is in it. Nothing is sent.`,
		Example: `  mpckms device factors
  mpckms device factors -o json`,
		Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			home, err := a.home()
			if err != nil {
				return err
			}
			names, err := home.ApproverDevices()
			if err != nil {
				return err
			}
			doc := struct {
				Devices []factorsDoc `json:"devices"`
			}{[]factorsDoc{}}
			for _, name := range names {
				d, _, err := a.approverDevice(name)
				if err != nil {
					return err
				}
				doc.Devices = append(doc.Devices, factorsOf(d, deviceKeyring(home, d.FileKeyring)))
			}
			return a.print(doc, func(t *text) {
				if len(doc.Devices) == 0 {
					t.line("This device is no approver's. With a link for it: 'mpckms device enrol LINK'.")
				}
				for i, d := range doc.Devices {
					if i > 0 {
						t.blank()
					}
					d.write(t)
				}
			})
		},
	}
}
