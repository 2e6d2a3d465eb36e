package cli

import (
	"os"
	"runtime"
	"strings"
)

func vaultAddr() string { return os.Getenv("VAULT_ADDR") }

func maskBuild(s string) string {
	return strings.NewReplacer(runtime.Version(), "GO", `"`+runtime.GOOS+`"`, `"OS"`, `"`+runtime.GOARCH+`"`, `"ARCH"`,
		runtime.GOOS+"/"+runtime.GOARCH, "OS/ARCH").Replace(s)
}
