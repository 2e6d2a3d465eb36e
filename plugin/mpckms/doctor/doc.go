// Package doctor holds what `mpckms doctor` finds, and the checks of the machine
// that Vault runs on: the plugin's file, the PKCS#11 modules, and the settings
// of Vault's systemd unit that hide HSMs from it.
//
// Border: it reads files, the process table and a unit's text, and changes
// nothing. It loads no library and opens no token; what is asked of Vault is
// package cli's part. A check that could not be made says so and why: it is
// never taken for a good one.
package doctor
