package config

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Port is a TCP port to listen on; 0 stands for any free one.
type Port int

// Decode accepts 0 to 65535.
func (p *Port) Decode(value string) error {
	n, err := parsePort(value, "")
	*p = Port(n)
	return err
}

// OptionalPort is a [Port] that may be "off".
type OptionalPort int

const off OptionalPort = -1

// Decode accepts 0 to 65535 and off.
func (p *OptionalPort) Decode(value string) error {
	if strings.EqualFold(value, "off") {
		*p = off
		return nil
	}
	n, err := parsePort(value, ", or off")
	*p = OptionalPort(n)
	return err
}

// Off tells that nothing is to listen.
func (p OptionalPort) Off() bool { return p == off }

func (p OptionalPort) String() string {
	if p.Off() {
		return "off"
	}
	return strconv.Itoa(int(p))
}

var errServiceLink = errors.New("is a Kubernetes service link, not a port: a Service of that name makes Kubernetes " +
	"set the variable; put enableServiceLinks: false into the pod's spec, or set the variable there yourself")

func parsePort(value, more string) (int, error) {
	if strings.HasPrefix(value, "tcp://") || strings.HasPrefix(value, "udp://") {
		return 0, fmt.Errorf("%q %w", value, errServiceLink)
	}
	n, err := strconv.ParseUint(value, 10, 16)
	if err != nil {
		return 0, fmt.Errorf("%q is not a port: use a number from 0 to 65535 (0 picks a free one)%s", value, more)
	}
	return int(n), nil
}
