//go:build cgo

package pkcs11_test

import (
	"bytes"
	"slices"
	"testing"
	"time"

	p11 "github.com/miekg/pkcs11"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/hsm/hsmtest"
	"vault-plugin-secrets-mpc/secret"
)

// TestManyProcesses: several processes use a key while one makes and destroys
// others in the same token, as the nodes of a mount do.
func TestManyProcesses(t *testing.T) {
	t.Run("SoftHSM", func(t *testing.T) {
		soft := hsmtest.SoftHSM(t)
		manyProcesses(t, childJob{Module: soft.Module, Label: soft.Label, PIN: soft.PIN().Expose(), Rounds: 40},
			hsm.SuiteHPKEP256, hsm.SuiteRSA3072OAEPSHA1)
	})
	t.Run("NSS", func(t *testing.T) {
		nss := hsmtest.NSS(t)
		manyProcesses(t, childJob{Module: nss.Module, InitArgs: nss.InitArgs, Label: nss.Label, PIN: nss.PIN().Expose(), Rounds: 20},
			hsm.SuiteHPKEP256)
	})
}

func manyProcesses(t *testing.T, job childJob, suites ...hsm.Suite) {
	tok, err := job.open()
	if err != nil {
		t.Fatal(err)
	}
	defer tok.Close()
	job.Context = hsm.ShareContext(1, [32]byte{})
	const churn = 10
	var waits []func() childReport
	for _, suite := range suites {
		if job.Key, err = tok.GenerateWrappingKey(t.Context(), suiteRequest(1, "used", suite)); err != nil {
			t.Fatal(err)
		}
		if job.Envelope, err = hsm.Seal(job.Context, secret.Copy([]byte("share")), []hsm.WrappingKey{job.Key}); err != nil {
			t.Fatal(err)
		}
		for range 3 / len(suites) {
			waits = append(waits, startChild(t, "work", job))
		}
	}
	began := time.Now()
	for range churn {
		key, err := tok.GenerateWrappingKey(t.Context(), suiteRequest(2, "churn", hsm.SuiteHPKEP256))
		if err == nil {
			err = tok.DestroyWrappingKey(t.Context(), key.ID)
		}
		if err != nil {
			t.Errorf("making and destroying a key while others work: %v", err)
		}
	}
	t.Logf("%d keys made and destroyed meanwhile in %v", churn, time.Since(began).Round(time.Millisecond))
	for _, wait := range waits {
		if r := wait(); r.Done != job.Rounds || r.Opened != "share" {
			t.Errorf("%+v", r)
		}
	}
	t.Logf("all done after %v", time.Since(began).Round(time.Millisecond))
}

// TestBindWaitsForWholePairs: other processes bind keys whose halves appear one
// after the other, in either order, while more keys come and go. A half gets its
// place by getting its CKA_ID, so that the waiting processes know the public key
// beforehand.
func TestBindWaitsForWholePairs(t *testing.T) {
	soft := hsmtest.SoftHSM(t)
	tok := open(t, soft)
	c, _, s := rawSession(t, soft)
	const pairs = 6
	job := childJob{Module: soft.Module, Label: soft.Label, PIN: soft.PIN().Expose()}
	type halves struct{ first, second p11.ObjectHandle }
	var made []halves
	for i := range pairs {
		hidden, id := bytes.Repeat([]byte{byte(0x80 + i)}, 16), bytes.Repeat([]byte{byte(1 + i)}, 16)
		public := plant(t, soft, hidden, "", hsm.SuiteHPKEP256)
		job.Keys = append(job.Keys, hsm.WrappingKey{Domain: "default", Version: 1, Suite: hsm.SuiteHPKEP256, ID: id, PublicKey: public})
		h := halves{half(t, c, s, p11.CKO_PUBLIC_KEY, hidden), half(t, c, s, p11.CKO_PRIVATE_KEY, hidden)}
		if i%2 == 1 {
			h.first, h.second = h.second, h.first
		}
		made = append(made, h)
	}
	waits := []func() childReport{startChild(t, "binds", job), startChild(t, "binds", job)}
	for i, h := range made {
		for _, o := range []p11.ObjectHandle{h.first, h.second} {
			if err := c.SetAttributeValue(s, o, []*p11.Attribute{p11.NewAttribute(p11.CKA_ID, job.Keys[i].ID)}); err != nil {
				t.Fatal(err)
			}
			key, err := tok.GenerateWrappingKey(t.Context(), request(1, "churn"))
			if err == nil {
				err = tok.DestroyWrappingKey(t.Context(), key.ID)
			}
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(30 * time.Millisecond) // for the others to see the half
		}
	}
	through := 0
	for _, wait := range waits {
		r := wait()
		if r.Done == pairs {
			through++
			continue
		}
		// On a busy machine SoftHSM sometimes loses a token for a process while
		// another one writes to it, until that process ends. Nodes are replaced then.
		if !slices.Contains(r.Errors, "new process") {
			t.Errorf("%+v", r)
		} else if r := startChild(t, "binds", job)(); r.Done != pairs {
			t.Errorf("the second process: %+v", r)
		}
	}
	if through == 0 {
		t.Error("neither process saw every pair become whole")
	}
	if left, err := tok.FindByLabel(t.Context(), "churn"); err != nil || len(left) > 0 {
		t.Errorf("%d keys are left, %v", len(left), err)
	}
}

func half(t *testing.T, c *p11.Ctx, s p11.SessionHandle, class uint, id []byte) p11.ObjectHandle {
	t.Helper()
	if err := c.FindObjectsInit(s, []*p11.Attribute{p11.NewAttribute(p11.CKA_CLASS, class), p11.NewAttribute(p11.CKA_ID, id)}); err != nil {
		t.Fatal(err)
	}
	found, _, err := c.FindObjects(s, 2)
	if err != nil || len(found) != 1 {
		t.Fatal(found, err)
	}
	if err := c.FindObjectsFinal(s); err != nil {
		t.Fatal(err)
	}
	return found[0]
}
