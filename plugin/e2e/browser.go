//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Browser is one headless Chromium with a profile of its own, which no test before
// it has used. Tests speak to it through the DevTools protocol, at WebSocket.
type Browser struct {
	WebSocket string // ws://127.0.0.1:port/devtools/browser/…
	// Camera is the file that the browser's camera shows, Y4M (YUV4MPEG2). It is
	// read when a page starts the camera, again and again from its beginning.
	Camera string

	process Process
	exited  chan struct{}
	log     string
}

// StartBrowser starts a browser that ends with the test.
func (h *Harness) StartBrowser(t testing.TB) *Browser {
	t.Helper()
	binary, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatal("there is no chromium; run make setup")
	}
	dir, err := h.tempDir()
	if err != nil {
		t.Fatal(err)
	}
	b := &Browser{Camera: filepath.Join(dir, "camera.y4m"), log: filepath.Join(dir, "chromium.log"), exited: make(chan struct{})}
	t.Cleanup(func() {
		if err := errors.Join(b.stop(), os.RemoveAll(dir)); err != nil {
			t.Errorf("ending Chromium: %v", err)
		}
	})
	if err := b.start(h, binary, dir); err != nil {
		log, _ := os.ReadFile(b.log)
		t.Fatalf("starting Chromium: %v\n%s", err, log)
	}
	return b
}

func (b *Browser) start(h *Harness, binary, dir string) error {
	args := []string{
		"--headless=new", "--user-data-dir=" + filepath.Join(dir, "profile"), "--remote-debugging-address=127.0.0.1", "--remote-debugging-port=0",
		// Containers have little shared memory, and no GPU.
		"--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars", "--mute-audio",
		// Nothing of the machine, and nothing from the network but Vault.
		"--no-first-run", "--no-default-browser-check", "--disable-extensions", "--disable-sync", "--disable-background-networking",
		"--disable-component-update", "--disable-breakpad", "--password-store=basic", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE *.localhost, EXCLUDE 127.0.0.1",
		// Pages that the test does not look at run on as if it did.
		"--disable-background-timer-throttling", "--disable-backgrounding-occluded-windows", "--disable-renderer-backgrounding",
		"--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream", "--use-file-for-fake-video-capture=" + b.Camera,
		"about:blank",
	}
	if os.Geteuid() == 0 {
		args = append([]string{"--no-sandbox"}, args...) // which Chromium insists on
	}
	logFile, err := os.Create(b.log)
	if err != nil {
		return err
	}
	defer logFile.Close()
	cmd := exec.Command(binary, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "TMPDIR=" + dir, "LANG=en_GB.UTF-8", "TZ=UTC"}
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() { // ends with the process, which stop and the reaper see to
		defer close(b.exited)
		_ = cmd.Wait()
	}()
	if b.process, err = lookUp(cmd.Process.Pid); err != nil {
		return fmt.Errorf("it ended at once: %w", err)
	}
	if err := h.reaper.watchGroup(b.process); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	// Chromium writes its port and path there once it listens.
	for {
		active, err := os.ReadFile(filepath.Join(dir, "profile", "DevToolsActivePort"))
		if port, path, ok := strings.Cut(strings.TrimSpace(string(active)), "\n"); err == nil && ok {
			b.WebSocket = "ws://127.0.0.1:" + port + path
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited %v until it listens", startTimeout)
		case <-b.exited:
			return errors.New("it ended")
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// stop ends the browser and everything that it started, also what left its group.
func (b *Browser) stop() error {
	if b.process.PID == 0 {
		return nil
	}
	below, err := descendants(b.process.PID)
	select {
	case <-b.exited:
	default:
		if err := syscall.Kill(b.process.PID, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
		select {
		case <-b.exited:
		case <-time.After(stopTimeout):
		}
	}
	err = errors.Join(err, killGroup(b.process))
	for _, p := range awaitGone(below, goneTimeout) {
		if kill := syscall.Kill(p.PID, syscall.SIGKILL); kill != nil && !errors.Is(kill, syscall.ESRCH) {
			err = errors.Join(err, fmt.Errorf("killing %v: %w", p, kill))
		}
	}
	<-b.exited
	return err
}
