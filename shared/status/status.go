// Package status is the document that /status of the control plane answers with:
// what the server is, and which clients are connected. It is produced by the
// server, fetched by the status command, and printed as a table or as JSON.
package status

import (
	"encoding/json"
	"time"
)

// Document is the whole answer. Fields may be added to it, never renamed.
type Document struct {
	Info    Info     `json:"info"`
	Clients []Client `json:"clients"`
}

// Info is about the process that answers.
type Info struct {
	Version   string    `json:"version"`
	SHA       string    `json:"sha"`
	Mode      string    `json:"mode"`
	StartTime time.Time `json:"startTime"`
	Hostname  string    `json:"hostname"`
}

// Client is one connected session.
type Client struct {
	ClientID   string    `json:"clientID"`
	RemoteAddr string    `json:"remoteAddr"`
	Since      time.Time `json:"since"`
	Upstreams  []string  `json:"upstreams"`
	Waiting    []string  `json:"waiting,omitempty"` // those of them whose service does not answer
	License    *License  `json:"license,omitempty"` // where the server asks for one
}

// License is what a client is admitted by.
type License struct {
	Subject    string    `json:"sub"`
	Expires    time.Time `json:"expires"`
	MaxClients int       `json:"maxClients,omitempty"` // 0: any number
	KeyID      string    `json:"keyID"`                // of the public key that verified it
}

// MarshalJSON writes lists without elements as [], which is what programs that
// walk the document expect, never as null.
func (d Document) MarshalJSON() ([]byte, error) {
	type plain Document
	if d.Clients == nil {
		d.Clients = []Client{}
	}
	return json.Marshal(plain(d))
}

// MarshalJSON is as that of [Document].
func (c Client) MarshalJSON() ([]byte, error) {
	type plain Client
	if c.Upstreams == nil {
		c.Upstreams = []string{}
	}
	return json.Marshal(plain(c))
}
