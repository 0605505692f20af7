// Package auth decides who may talk to the control plane. There is one kind of credential, the token: a secret
// of at least MinToken bytes that server and clients share and that travels as
//
//	Authorization: Bearer TOKEN
//
// Tokens holds the tokens that are valid at this moment. Several may be, so that a token is rotated without a
// gap: add the new one to the server, move the clients over, take the old one away. ParseTokens reads them from
// a setting or a file, and refuses a list that would leave the door open: one that is empty, one with a token
// that is easily guessed because it is short.
//
// Require puts the check in front of a handler. A valid token passes at once, whatever happened before; a
// request without one is answered 401, counted and logged with its address, and after FreeFailures of them the
// address is answered 429 for a while that doubles each time (see Throttle). That is what a client with an old
// token sees, too: it cannot flood the log, and it gets in as soon as its token is right.
//
// Nothing here ever logs a token, returns one in an error, or compares one in a time that depends on its
// content.
package auth
