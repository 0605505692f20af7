package tunnel

// CapabilityForward says, in a server's Hello, that it connects some of its own services for
// the client; and in a client's, that it wants that and may have no upstreams.
const CapabilityForward = "forward"
