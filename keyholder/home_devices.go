package keyholder

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// What approvers' devices remember, below a folder each that is made with the first
// of them.
const (
	homeDevices       = "approver-devices" // NAME.json: package approver's Device, public
	homeDeviceKeyring = "approver-keyring" // NAME: the device's key, see FileKeyring
)

// ApproverDevice decodes what is remembered of the approver's device of that name; ok
// is false where there is none.
func (h *Home) ApproverDevice(name string, into any) (ok bool, err error) {
	return h.read(homeDevices, name, into)
}

// ApproverDevices lists the names of the approver's devices in this home.
func (h *Home) ApproverDevices() ([]string, error) {
	names, err := h.names(homeDevices)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return names, err
}

// SetApproverDevice remembers one.
func (h *Home) SetApproverDevice(name string, device any) error {
	if err := os.MkdirAll(filepath.Join(h.dir, homeDevices), 0o700); err != nil {
		return err
	}
	return h.write(homeDevices, name, device)
}

// ForgetApproverDevice forgets one; its key is the keyring's to forget.
func (h *Home) ForgetApproverDevice(name string) error { return h.remove(homeDevices, name) }

// ApproverFileKeyring is FileKeyring for the keys of approvers' devices, which so
// never meet an authenticator's secret.
func ApproverFileKeyring(h *Home) Keyring {
	return fileKeyring{filepath.Join(h.dir, homeDeviceKeyring)}
}

// ApproverSystemScope is the scope of SystemKeyring for the same.
func ApproverSystemScope(scope string) string { return scope + "/approver" }
