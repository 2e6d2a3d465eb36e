package pool

import "github.com/hashicorp/go-hclog"

// processLog is the logger of a subprocess. go-plugin reports the end of every
// process that was killed as an error, and so of each that we have ended
// ourselves: a probe at every write of config/hsm, or nodes that leave. The
// supervisor tells of an end that nobody asked for.
type processLog struct{ hclog.Logger }

func (l processLog) Error(msg string, args ...any) {
	if msg == "plugin process exited" {
		l.Logger.Debug(msg, args...)
		return
	}
	l.Logger.Error(msg, args...)
}
