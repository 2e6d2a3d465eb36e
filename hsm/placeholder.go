package hsm

const (
	SuiteRSA3072OAEPSHA256 Suite = 2
	SuiteRSA3072OAEPSHA1   Suite = 3
)

func Seals(envelope []byte) ([]SealedKey, error) {
	e, err := ParseEnvelope(envelope)
	if err != nil {
		return nil, err
	}
	return e.Seals(), nil
}

func DealContext(accountID [16]byte, target [32]byte, dealer, index uint8) Context {
	return fields([]byte("mpc hsm context deal v1"), accountID[:], target[:], []byte{dealer}, []byte{index})
}

type KeyRequest struct {
	Domain  string
	Version uint32
	Label   string
	Suites  []Suite
}

type KeyObject struct {
	ID              []byte
	Private, Public int
}
