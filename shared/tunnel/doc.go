// Package tunnel carries many byte streams over one connection that the client
// dialled: the session protocol adit.v1.
//
// A newcomer reads frame.go (the bytes on the wire), session.go (what a session is and
// who may open streams) with ping.go and goaway.go, stream.go (one byte connection)
// with ending.go (how it ends), and then writer.go, reader.go and credit.go for how it
// is fast and bounded. relay.go joins a stream to a socket. carrier.go is what lies
// below: a websocket in production, any net.Conn in tests.
//
// # Establishing a session
//
// The client sends a websocket handshake (RFC 6455) to GET /connect with
//
//	Sec-WebSocket-Protocol: adit.v1
//	Authorization: Bearer TOKEN
//	Adit-Hello: BASE64URL(JSON)
//
// The JSON object is a [Hello]: version, capabilities, client id, epoch,
// upstreams and limits. A Hello longer than 4 KiB of base64 is cut into several
// Adit-Hello lines, joined in order by the receiver. The server answers 101 with
// its own Adit-Hello, or with a plain HTTP status whose text says why not; both
// Hellos are thus known before the first frame, and a refusal needs no session.
// Unknown JSON members and unknown capabilities are ignored, so that older and
// newer peers work together.
//
// # Frames
//
// A binary websocket message is a sequence of whole frames. A frame is an 8 byte
// header, big-endian, and a payload:
//
//	 0      1      2             4                           8
//	+------+------+-------------+---------------------------+----------
//	| type | zero | length: u16 | stream: u32               | payload …
//	+------+------+-------------+---------------------------+----------
//
// The length counts the payload and is at most [MaxPayload], so that no frame is
// longer than 64 KiB. The second byte is zero; a receiver that finds anything else
// ends the session. A sender never cuts a frame at the end of a message; a receiver
// may treat the messages as one sequence of bytes. A type that the receiver does
// not know is skipped with its payload. Streams opened by the server have even
// numbers, streams opened by the client odd ones, 0 is the session itself.
//
//	type       stream  sent by   payload
//	1 OPEN     id      opener    upstream: u16, window: u32, then attributes
//	2 ACCEPT   id      acceptor  window: u32
//	3 DATA     id      both      bytes of the stream
//	4 FIN      id      both      none
//	5 RESET    id      both      code: u32, reason: UTF-8
//	6 CREDIT   id      both      increment: u32
//	7 PING     0       both      8 opaque bytes
//	8 PONG     0       both      the 8 bytes of the PING
//	9 GOAWAY   0       both      code: u32, after: u32 ms, jitter: u32 ms, reason: UTF-8
//	10 HEALTH  0       client    bits
//
// OPEN asks the acceptor to connect the upstream with that index in its Hello and
// says how many bytes of DATA the opener takes before it grants more. Attributes
// are any number of (type: u8, length: u16, value): 1 is the visitor's address and
// 2 the address that the visitor reached, both as text "ip:port". Unknown ones are
// skipped. The acceptor replies with ACCEPT when the upstream is connected, or with
// RESET. The opener sends no DATA before ACCEPT. A number may be used again once the
// stream is over.
//
// ACCEPT comes once, from the acceptor, and says how many bytes of DATA it takes.
//
// DATA consumes the receiver's window. A sender with no credit left waits; more than
// was granted ends the session. Empty DATA is allowed and means nothing.
//
// FIN is the end of the sender's bytes: the half-close of TCP; DATA or a second FIN
// behind it ends the session. The other direction stays open. A stream is over when
// both have sent FIN, or either RESET.
//
// RESET ends the stream in both directions at once. Bytes that are still under way
// may be lost, and the receiver must never present it as a clean end; only a
// direction that its FIN had completed before stays complete. The code is one of
// [Code]; one that the receiver does not know means CodeInternal. A peer that gets
// frames for a stream that it does not know (any longer) ignores them.
//
// CREDIT grants the sender of DATA so many more bytes on this stream. Unused grants
// may not exceed 2³¹-1 bytes; more ends the session, as it does in OPEN and ACCEPT.
//
// PING is answered with PONG at once. Each peer sends one every ping interval
// (15 s unless set); frames of a session keep every middle box between the peers
// awake, and the answer measures the round trip. A peer that was silent for two
// intervals is dead and the session ends.
//
// GOAWAY announces that the sender wants to leave: the receiver opens no more
// streams on this session, lets those under way finish, and, if it is the one who
// dials, comes back after `after` plus a random part of `jitter`.
//
// HEALTH says which upstreams of the client's Hello wait for the service behind them: the
// server should open no streams to those. Upstream i waits if bit i%8, counted from the
// lowest, of byte i/8 is set; upstreams beyond the end do not wait, and an empty payload
// means that none does. It replaces what the Hello, in its member waiting (the same bytes
// in base64), or an earlier HEALTH said. There is no reply. A server that heeds it has the
// capability "health" in its Hello; an older one skips the frame, and its visitors learn by
// RESET that an upstream cannot be reached.
//
// A peer that has nothing more to say sends what is pending and then a close frame
// with 1001; the other answers with its own and closes. What had been sent before is
// thus never lost on the way. A peer that breaks the protocol is cut off: the close
// frame carries 1002 and the reason, and the connection ends.
//
// # Credit
//
// The first window of a stream is 256 KiB. The receiver returns what was consumed
// when that is half of the window, and doubles the window, up to 16 MiB, whenever
// half a window was consumed in less than two round trips, which is when the window
// and not the reader is the limit. The windows of all streams of a session share a
// budget; a stream for which the budget has no room gets 16 KiB, and growth leaves a
// quarter of it to new streams. A slow reader thus stalls its own stream and nothing
// else, and the memory of a session is bounded.
//
// # Order and fairness
//
// Frames of one stream stay in order (RESET may overtake its stream's DATA). Between
// streams, control frames and small DATA leave first; bulk DATA is sent in turns, one
// frame for each stream that waits.
package tunnel
