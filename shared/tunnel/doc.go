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
// upstreams, who may visit them, and limits. A Hello longer than 4 KiB of base64
// is cut into several Adit-Hello lines, joined in order by the receiver. The
// server answers 101 with its own Adit-Hello, or with a plain HTTP status whose
// text says why not; both Hellos are thus known before the first frame, and a
// refusal needs no session. Unknown JSON members and unknown capabilities are
// ignored, so that older and newer peers work together; but not in what says who
// may visit, see [Hello.Access].
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
//	11 LANE    id      server    none
//	12 MOVE    id      both      none
//	13 BACK    id      both      count: u64
//
// OPEN asks the acceptor to connect the upstream with that index in its Hello and
// says how many bytes of DATA the opener takes before it grants more. Attributes
// are any number of (type: u8, length: u16, value): 1 is the visitor's address and
// 2 the address that the visitor reached, both as text "ip:port"; 3 is for streams
// of the client, see Forwards. Unknown ones are skipped. The acceptor replies with ACCEPT when the upstream is connected, or with
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
// # Forwards
//
// A server that connects clients to services of its own network says the capability
// "forward" in its Hello. A client opens a stream for that by an OPEN with upstream 0 and
// the attribute 3: the service's address as text "host:port", with IPv6 in brackets. The
// server decides what is allowed, and connects it, or answers with a RESET: of the code
// denied when that will not change on this session, so that there is no use in asking
// again. An older server, or one that does no forwards, resets every stream of the client
// with no_upstream. A client never heeds the attribute: it connects its own upstreams, by
// their index. A client that has forwards says "forward" in its Hello, too; only then may
// that have no upstreams at all.
//
// # The end
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
//
// # Lanes
//
// A lane is a websocket of its own that carries one direction of one stream that turned
// out to be bulky, so that it delays nothing else, and the kernel can move its bytes. It is
// only an optimisation: whatever can be refused or go wrong before bytes travel on it
// leaves the stream on the session. Both peers say the capability "lanes" in their Hello,
// and the server's has a member "lanes" with an id of the session and a key:
//
//	{"id": 32 hex digits, "key": 64 hex digits}
//
// Only the client dials, as it dialled the session, to the same path with the same token
// and subprotocol and, in place of the Hello, the id, the key, the number of the stream and
// the direction of the bytes, which is "up" from client to server or "down":
//
//	Adit-Lane: ID KEY STREAM DIRECTION
//
// The server answers 101, or 400 for what is malformed, 404 if it does not hold the session
// (another replica may) or the key is wrong, 410 if the stream is over or has a lane for the
// direction already, and 503 if there are too many, of the session (8) or in all. After a
// refusal other than 410 the client tries no lane for a minute, and for ten after one that
// broke while it was in use; after 410 for a lane "up" it tries none for that direction of
// the stream. Lanes do not count as clients.
//
// Whether frames pass in both directions is found out before anything depends on it: the
// client sends an empty ping, the server answers with a pong, and on a lane "down" the
// client sends a pong, too. From then on it can be used: a lane "up" by the client, a lane
// "down" by the server. One that is not greeted within 20 s is closed.
//
// LANE asks the client to dial a lane "down" for the stream. The server sends it when it
// notices that its direction is bulky; the client is free to ignore it, and an older one
// never gets it. What is bulky is the sender's affair: here it is 1 MiB within 10 s with few
// turns, at which the other side spoke, and up to 16 MiB where lanes turned out to carry
// little; over a long way also for 20 round trips, for a new connection begins slowly.
//
// MOVE stands in order behind the DATA of its sender: from here on the bytes of this
// direction travel on the lane that was dialled for it, until BACK. No DATA comes in
// between, and no FIN; it would end the session, and so would a second MOVE. The receiver
// reads what came on the session first. One that has no such lane (any longer) resets the
// stream.
//
// The bytes are the payload of the lane's binary messages, in frames of any length, cut as
// the sender or a box in between likes, and masked by the client; see Masking. A lane has
// no credit: TCP is its flow control, and a receiver whose reader is slow just does not read
// it. It sends an empty pong every 15 s instead, without having been asked, for boxes that
// cut what is silent and for the sender, who gives up after a minute without one.
//
// BACK says how many bytes of payload travelled on the lane since MOVE and that there are
// no more; the sender closes the lane behind them with a close frame (1000). FIN may follow
// BACK at once, DATA and MOVE only when the receiver has closed the lane, too, which it does
// when it has read the payload to its end. A stream that is idle for 10 s goes back in
// this way, also one that never used its lane: it sends MOVE and BACK with no bytes.
//
// The receiver takes the end of a lane for what it is only if as many bytes have come as
// BACK has said. Anything else that ends a lane, or the end of its session, breaks the
// stream: the receiver resets it (after two seconds, in which a RESET with a better reason
// may come), so that a cut is never taken for an end. A RESET closes the lanes of its
// stream at once, but for a direction that BACK and FIN had ended before. Where both have
// sent FIN there is no RESET any more: a receiver that wants no more just closes the lane,
// and the sender makes nothing of it. A FIN closes a lane of its direction that was not
// used. A session has something under way until all of its lanes are closed.
//
// # Masking
//
// RFC 6455 section 5.3 has a client mask its frames with keys that cannot be foretold.
// Section 10.3 says what for: scripts in browsers must not be able to make a proxy that
// knows no websockets take their bytes for HTTP. Sessions, and lanes over TLS, are masked so.
// On a lane "up" without TLS whose bytes the kernel moves from one socket to another nobody
// can mask them: those frames have the masking key zero, under which the payload is as it
// was. That is a valid frame for all who read it, and no browser is involved, but who
// controls the upstream's bytes controls what a proxy on the way sees. Such a proxy, and
// anybody else on the way of ws://, could change everything anyway: wss:// is for that. A
// client whose HTTP proxy is configured splices nothing (see Lanes.Masked).
package tunnel
