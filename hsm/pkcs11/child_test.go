//go:build cgo

package pkcs11_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/hsm/pkcs11"
	"vault-plugin-secrets-mpc/secret"
)

// childEnv names what this test binary does when it is started by one of its
// own tests as a second process on the token.
const childEnv = "MPC_HSM_TEST_CHILD"

// childJob is what a child is told, on standard input. Everything in it is test
// material.
type childJob struct {
	Module, InitArgs, Label string
	PIN                     []byte
	Key                     hsm.WrappingKey
	Context, Envelope       []byte
	Rounds                  int
	Keys                    []hsm.WrappingKey
}

// childReport is the last line a child writes. Names of errors, since errors do
// not travel.
type childReport struct {
	Opened string
	Errors []string
	Text   string
	Done   int
}

var childTasks = map[string]func(childJob) childReport{
	"open":  childOpens,
	"work":  childWorks,
	"binds": childBinds,
}

func TestMain(m *testing.M) {
	name, child := os.LookupEnv(childEnv)
	if !child {
		os.Exit(m.Run())
	}
	task := childTasks[name]
	if task == nil { // running the tests here would start children without end
		fmt.Fprintf(os.Stderr, "%s=%q is no task\n", childEnv, name)
		os.Exit(2)
	}
	var job childJob
	if err := json.NewDecoder(os.Stdin).Decode(&job); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	if err := json.NewEncoder(os.Stdout).Encode(task(job)); err != nil {
		os.Exit(2)
	}
}

// startChild starts a second process; wait returns its report. It is killed
// with the test.
func startChild(t testing.TB, task string, job childJob) (wait func() childReport) {
	t.Helper()
	in, err := json.Marshal(job)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+task)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(in), &stdout, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return func() childReport {
		t.Helper()
		var report childReport
		if err := cmd.Wait(); err != nil {
			t.Fatalf("child: %v\n%s", err, stderr.String())
		}
		if err := json.Unmarshal(stdout.Bytes(), &report); err != nil {
			t.Fatalf("child: %v\n%s%s", err, stdout.String(), stderr.String())
		}
		return report
	}
}

func (j childJob) open() (*pkcs11.Token, error) {
	return pkcs11.Open(context.Background(), pkcs11.Config{Module: j.Module, InitArgs: j.InitArgs, Label: j.Label,
		PIN: secret.Copy(j.PIN), AllowSHA1: true, Timeout: patience})
}

// failed names the sentinels in err.
func failed(r childReport, err error) childReport {
	r.Text = err.Error()
	for name, sentinel := range map[string]error{
		"unavailable": hsm.ErrUnavailable, "new process": hsm.ErrNewProcess, "key not found": hsm.ErrKeyNotFound,
		"key mismatch": hsm.ErrKeyMismatch, "PIN": hsm.ErrPINIncorrect, "token not found": hsm.ErrTokenNotFound,
		"module": hsm.ErrModule, "open": hsm.ErrOpen,
	} {
		if errors.Is(err, sentinel) {
			r.Errors = append(r.Errors, name)
		}
	}
	return r
}

func (r childReport) says(name string) bool {
	return strings.Contains("|"+strings.Join(r.Errors, "|")+"|", "|"+name+"|")
}

// childOpens binds the key and opens the envelope, once.
func childOpens(job childJob) (r childReport) {
	tok, err := job.open()
	if err != nil {
		return failed(r, err)
	}
	defer tok.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := tok.Bind(ctx, job.Key); err != nil {
		return failed(r, err)
	}
	got, _, err := hsm.Open(context.Background(), tok, []hsm.WrappingKey{job.Key}, job.Context, job.Envelope)
	if err != nil {
		return failed(r, err)
	}
	defer got.Wipe()
	r.Opened = string(got.Expose())
	return r
}

// childWorks binds, opens and lists again and again.
func childWorks(job childJob) (r childReport) {
	tok, err := job.open()
	if err != nil {
		return failed(r, err)
	}
	defer tok.Close()
	for range job.Rounds {
		if err := tok.Bind(context.Background(), job.Key); err != nil {
			return failed(r, err)
		}
		got, _, err := hsm.Open(context.Background(), tok, []hsm.WrappingKey{job.Key}, job.Context, job.Envelope)
		if err != nil {
			return failed(r, err)
		}
		r.Opened = string(got.Expose())
		if _, err := tok.FindByLabel(context.Background(), "churn"); err != nil {
			return failed(r, err)
		}
		r.Done++
	}
	return r
}

// childBinds binds keys that come into being while it waits for them.
func childBinds(job childJob) (r childReport) {
	tok, err := job.open()
	if err != nil {
		return failed(r, err)
	}
	defer tok.Close()
	for _, key := range job.Keys {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		err := tok.Bind(ctx, key)
		cancel()
		if err != nil {
			return failed(r, err)
		}
		r.Done++
	}
	return r
}
