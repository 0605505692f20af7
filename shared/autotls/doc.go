// Package autotls secures the control plane without anybody having to get a certificate: the server makes a CA
// of its own, and a client that knows the token finds out for certain which CA that is.
//
// Authority is the server's side, Fetch the client's. KeyPairs is for operators who do have certificates: it
// serves theirs instead and takes up new ones when the files change.
//
// # Protocol, version 1
//
// Both sides know a token, a secret of at least 16 bytes. The server holds a CA certificate whose key nobody
// else has, and on the control plane's TLS port presents a certificate signed by it. The client asks for the
// CA before it connects, once per session (a server without a place to keep its CA makes a new one each time it
// starts):
//
//	GET /.well-known/ca.crt?nonce=N HTTP/1.1
//	Adit-Ca-Proof: P
//
// over TLS whose certificate it does not verify yet, so nothing secret may be in the request. In it
//
//	N = 64 hexadecimal digits: the nonce, 32 bytes, random and new for every request
//	P = hex(HMAC-SHA256(key: token, "adit ca proof v1\n" || nonce))
//
// where || joins bytes, "\n" is one line feed, and nonce stands for the 32 bytes themselves. The path is appended
// to the path of the server's URL, if that has one. The server answers
//
//   - 200, when P is the proof of one of its tokens. The body is the CA certificate, one PEM block of type
//     CERTIFICATE, and exactly one header line proves that it comes from somebody who knows the token:
//
//     Adit-Ca-Hmac: hex(HMAC-SHA256(key: token, "adit ca v1\n" || nonce || DER of the certificate))
//
//   - 403, when P is missing or belongs to none of its tokens,
//
//   - 400, when N is not 64 hexadecimal digits or is given twice,
//
//   - 404, when it has no CA: the operator's certificate is served, or something in front of it ends TLS.
//
// Without a nonce the answer is the bare certificate, for tools that are told by hand to trust it.
//
// The client gives up unless the HMAC is right, compared in constant time, and looks into the certificate only
// then. It gives up, too, if the connection over which it asked does not itself present a chain to that CA.
// From then on it accepts only connections whose chain leads to that CA, for any host name: the CA signs for one
// server, which may not know the addresses it is reached under. The token is sent for the first time inside
// such a connection.
//
// # What that is worth
//
// Someone in the middle who does not know the token can present a CA of his own, but no HMAC for it; can pass on
// the true CA with its HMAC, but then has no certificate that it signed; can replay an earlier answer, but the
// nonce differs. The two texts that are signed begin differently, so a proof cannot be turned back as an answer.
//
// An answer is given only to who proves knowledge of the token first, since answers for anybody would let anybody
// try guesses of the token at home at any rate. The one who can still do so is he who is in the middle: from the
// proof. Random tokens (openssl rand -hex 32) cannot be guessed; 16 bytes that a person made up perhaps can.
package autotls
