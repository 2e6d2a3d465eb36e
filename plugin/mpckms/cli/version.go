package cli

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"
)

type versionDoc struct {
	Version string `json:"version"`
	Go      string `json:"go"`
	OS      string `json:"os"`
	Arch    string `json:"arch"`
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version of mpckms (asks no server)",
		Args:  noArgs,
		RunE: func(*cobra.Command, []string) error {
			doc := versionDoc{a.version, runtime.Version(), runtime.GOOS, runtime.GOARCH}
			return a.print(doc, func(w *text) {
				w.line(fmt.Sprintf("mpckms %s (%s, %s/%s)", doc.Version, doc.Go, doc.OS, doc.Arch))
			})
		},
	}
}
