// Command vault builds the pinned HashiCorp Vault from its published Go
// module, for machines that have no vault binary. It is a module of its own so
// that Vault's several hundred requirements stay out of the plugin's go.mod.
//
// Vault itself is licensed BUSL-1.1: it is run here, nothing of it is copied.
package main

import (
	"os"

	"github.com/hashicorp/vault/command"
)

func main() { os.Exit(command.Run(os.Args[1:])) }
