// Package hsmtest tests tokens: Run is one conformance suite for everything
// that holds wrapping keys, Fake is a token in memory for unit tests, SoftHSM
// and NSS make throwaway real tokens of two independent implementations.
//
// Border: for tests only. Nothing that ships may import it; a Fake protects
// nothing.
package hsmtest
