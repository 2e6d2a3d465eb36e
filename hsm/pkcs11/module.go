//go:build cgo

package pkcs11

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	p11 "github.com/miekg/pkcs11"
)

// module is the part of a PKCS#11 library that this package calls. *p11.Ctx is
// one; tests put faults in front of a real one.
type module interface {
	GetSlotList(tokenPresent bool) ([]uint, error)
	GetTokenInfo(slot uint) (p11.TokenInfo, error)
	OpenSession(slot uint, flags uint) (p11.SessionHandle, error)
	CloseSession(s p11.SessionHandle) error
	GetSessionInfo(s p11.SessionHandle) (p11.SessionInfo, error)
	Login(s p11.SessionHandle, userType uint, pin string) error
	FindObjectsInit(s p11.SessionHandle, template []*p11.Attribute) error
	FindObjects(s p11.SessionHandle, max int) ([]p11.ObjectHandle, bool, error)
	FindObjectsFinal(s p11.SessionHandle) error
	GetAttributeValue(s p11.SessionHandle, o p11.ObjectHandle, a []*p11.Attribute) ([]*p11.Attribute, error)
	GenerateKeyPair(s p11.SessionHandle, m []*p11.Mechanism, public, private []*p11.Attribute) (p11.ObjectHandle, p11.ObjectHandle, error)
	DecryptInit(s p11.SessionHandle, m []*p11.Mechanism, key p11.ObjectHandle) error
	Decrypt(s p11.SessionHandle, ciphertext []byte) ([]byte, error)
	DeriveKey(s p11.SessionHandle, m []*p11.Mechanism, base p11.ObjectHandle, a []*p11.Attribute) (p11.ObjectHandle, error)
	DestroyObject(s p11.SessionHandle, o p11.ObjectHandle) error
}

var _ module = (*p11.Ctx)(nil)

// library is a loaded and started PKCS#11 library.
type library struct {
	module
	// shared is crypto11's use of the same library; nil where it cannot have
	// one.
	shared *sharing
}

// load loads and starts the library, for crypto11 too if that is possible:
// crypto11 insists on being the one that starts it, and cannot hand over
// arguments.
func load(cfg Config) (library, error) {
	var lib library
	if cfg.InitArgs == "" {
		lib.shared = share(cfg)
	}
	var err error
	if lib.module, err = loadModule(cfg.Module, cfg.InitArgs); err != nil {
		return library{}, errors.Join(err, lib.shared.close())
	}
	if cfg.InitArgs == "" && lib.shared == nil {
		// If somebody finalised a library that crypto11 believes started, as
		// tests do, it is right again now.
		lib.shared = share(cfg)
	}
	return lib, nil
}

// loadModule loads and starts the library. It stays loaded and started until
// the process ends, also after an error: see the package comment.
func loadModule(path, initArgs string) (module, error) {
	c := p11.New(path)
	if c == nil {
		return nil, fmt.Errorf("%w: %s cannot be loaded; check that the file exists, is a PKCS#11 library for this architecture and is readable by this user", ErrModule, path)
	}
	var options []p11.InitializeOption
	if initArgs != "" {
		// The library may read the arguments during the call only (PKCS#11
		// v2.40, 5.4), so pinning the bytes for its length is enough.
		b := append([]byte(initArgs), 0)
		var pinner runtime.Pinner
		pinner.Pin(&b[0])
		defer pinner.Unpin()
		options = append(options, p11.InitializeWithReserved(unsafe.Pointer(&b[0])))
	}
	err := c.Initialize(options...) // with CKF_OS_LOCKING_OK
	if err != nil && !errors.Is(err, p11.Error(p11.CKR_CRYPTOKI_ALREADY_INITIALIZED)) {
		return nil, fmt.Errorf("%w: %s does not start; check its configuration file and environment (for SoftHSM: SOFTHSM2_CONF; for NSS: init-args): %w", ErrModule, path, err)
	}
	return c, nil
}

// fault is what an error of the module asks for (PKCS#11 v2.40, 11.1).
type fault int

const (
	faultNone    fault = iota
	faultOther         // report it
	faultVague         // may be a lost session: look, else report it
	faultSession       // the session is gone: take a new one, retry once
	faultDirty         // something is still going on in the session: take a new one, retry once
	faultLogin         // the login is gone: log in, retry once
	faultHandle        // the object's handle is stale: find it again, retry once
	faultToken         // the token or module is gone: nothing helps in this call
)

func classify(err error) fault {
	if err == nil {
		return faultNone
	}
	code, ok := errors.AsType[p11.Error](err)
	if !ok {
		return faultOther
	}
	switch code {
	case p11.CKR_SESSION_HANDLE_INVALID, p11.CKR_SESSION_CLOSED:
		return faultSession
	case p11.CKR_OPERATION_ACTIVE:
		return faultDirty
	case p11.CKR_USER_NOT_LOGGED_IN:
		return faultLogin
	case p11.CKR_OBJECT_HANDLE_INVALID, p11.CKR_KEY_HANDLE_INVALID:
		return faultHandle
	case p11.CKR_DEVICE_ERROR, p11.CKR_DEVICE_MEMORY, p11.CKR_DEVICE_REMOVED,
		p11.CKR_TOKEN_NOT_PRESENT, p11.CKR_TOKEN_NOT_RECOGNIZED,
		p11.CKR_SESSION_COUNT, p11.CKR_CRYPTOKI_NOT_INITIALIZED:
		return faultToken
	case p11.CKR_GENERAL_ERROR, p11.CKR_FUNCTION_FAILED:
		return faultVague
	}
	if code >= p11.CKR_VENDOR_DEFINED {
		// NSS says so when its database files are gone. What else it may mean
		// only the vendor knows; that the token cannot do the operation has
		// codes of its own.
		return faultToken
	}
	return faultOther
}

func (f fault) recoverable() bool {
	return f == faultSession || f == faultDirty || f == faultLogin || f == faultHandle
}

// explain puts the sentinel in front of an error that a retry did not cure.
func explain(doing string, err error) error {
	switch classify(err) {
	case faultToken, faultSession, faultDirty, faultLogin:
		return fmt.Errorf("%w: %s: %w; nothing was changed, check the token and try again", ErrUnavailable, doing, err)
	case faultHandle:
		return fmt.Errorf("%w: %s: %w", ErrKeyNotFound, doing, err)
	}
	return fmt.Errorf("pkcs11: %s: %w", doing, err)
}
