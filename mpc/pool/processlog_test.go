package pool

import (
	"bytes"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
)

func TestProcessLog(t *testing.T) {
	var out bytes.Buffer
	log := processLog{hclog.New(&hclog.LoggerOptions{Output: &out, Level: hclog.Debug})}
	log.Error("plugin process exited", "error", "signal: killed")
	log.Error("something else")
	log.Warn("a warning")
	for _, want := range []string{"[DEBUG] plugin process exited: error=\"signal: killed\"", "[ERROR] something else", "[WARN]  a warning"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the log does not say %q:\n%s", want, out.String())
		}
	}
}
