package doctor

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// CheckPluginFile compares the plugin's file on this machine with the SHA-256
// that it was registered with, in hex. An empty sum is not known.
func CheckPluginFile(a *Area, path, sum string) {
	const check = "plugin file"
	path = filepath.Clean(path)
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		a.Problem(check, path+" is not there: Vault cannot start the plugin again",
			"Put the file that was registered back, or install a release and register its SHA-256.")
		return
	case err != nil:
		a.Skip(check, err.Error())
		return
	case !info.Mode().IsRegular():
		a.Problem(check, path+" is not a regular file", "Put the plugin's file there.")
		return
	case info.Mode().Perm()&0o111 == 0:
		a.Problem(check, path+" is not executable", "chmod 0755 "+path)
		return
	case info.Mode().Perm()&0o022 != 0:
		a.Problem(check, fmt.Sprintf("%s can be written by other users (mode %04o)", path, info.Mode().Perm()), "chmod 0755 "+path)
		return
	}
	if sum == "" {
		a.Skip(check, path+" is there; its registered SHA-256 is not known to compare it with")
		return
	}
	have, err := fileSum(path)
	switch {
	case err != nil:
		a.Skip(check, "it cannot be read: "+err.Error())
	case have != sum:
		a.Problem(check, fmt.Sprintf("%s was changed after it was registered: its SHA-256 is %s…, the catalog has %s…; Vault will not start it", path, have[:12], clip(sum, 12)),
			"If you installed this file, register it: vault plugin register -sha256="+have+" -version=… -env=… secret …\n"+
				"and reload the mount. If you did not, somebody else has changed it.")
	default:
		a.OK(check, path+" has the registered SHA-256")
	}
}

func fileSum(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func clip(s string, n int) string { return s[:min(n, len(s))] }
