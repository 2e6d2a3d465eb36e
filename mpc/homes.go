package mpc

// Home is where a share lives: the wrapping domain that it is sealed to and the
// region whose nodes may open it.
type Home struct {
	// Domain is a wrapping domain's name; see hsm.WrappingKey.
	Domain string `json:"domain"`
	// Region is a label that operators give nodes; empty where they gave none.
	Region string `json:"region"`
}
