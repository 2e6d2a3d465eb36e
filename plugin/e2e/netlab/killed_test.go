//go:build linux

package netlab

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// victimEnv makes TestVictim play its part; see the test after it.
const victimEnv = "NETLAB_VICTIM"

func TestVictim(t *testing.T) {
	if os.Getenv(victimEnv) == "" {
		t.Skip("run by TestNothingIsLeftOfAKilledProcess")
	}
	_, s := newLab(t, Config{}, "a@x")
	cmd := exec.Command("cat")
	cmd.Stdin = os.Stdin // the other test's, so that it ends with that one at the latest
	if err := s["a"].Start(cmd); err != nil {
		t.Fatal(err)
	}
	fmt.Println("victim", cmd.Process.Pid)
	_ = cmd.Wait()
}

// TestNothingIsLeftOfAKilledProcess kills a process that has a lab. What it
// started in a site is still there, and so is the site, without its device.
func TestNothingIsLeftOfAKilledProcess(t *testing.T) {
	if err := Available(); err != nil {
		t.Skip(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestVictim$")
	cmd.Env = append(os.Environ(), victimEnv+"=1")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close() //nolint:errcheck // the end of what is in the site
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait() //nolint:errcheck // killed
	defer cmd.Process.Kill()
	var inside int
	for lines := bufio.NewScanner(stdout); inside == 0 && lines.Scan(); {
		_, _ = fmt.Sscanf(lines.Text(), "victim %d", &inside)
	}
	if inside == 0 {
		t.Fatal("the victim started nothing in its site")
	}
	devices := func() string {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/dev", inside))
		if err != nil {
			t.Fatalf("the process in the site: %v", err)
		}
		return string(text)
	}
	if !strings.Contains(devices(), device+":") {
		t.Fatal("the process in the site does not see its device")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); strings.Contains(devices(), device+":"); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the device outlived the process that made it")
		}
	}
}
