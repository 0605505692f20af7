package service

import (
	"bytes"
	"context"
	"fmt"
	stdlog "log"
	"net"
	"net/http"
	"time"

	"github.com/rs/zerolog"
)

// HTTP returns srv on l, a TLS listener if it is to speak TLS, as an actor for a
// run.Group. Execute serves until it is interrupted, then waits up to drain for
// requests in flight and closes the rest. It returns nil after that and an error
// if serving broke off by itself. Connections that a handler hijacked are not
// waited for: they are their owner's.
//
// If l has a method Settle it is called first, with the server still at work: l may have
// business of its own to hand over to the server before that turns requests away.
//
// Unless srv has an ErrorLog, what it has to say goes to log.
func HTTP(name string, srv *http.Server, l net.Listener, drain time.Duration, log zerolog.Logger) (execute func() error, interrupt func(error)) {
	log = log.With().Str("server", name).Logger()
	if srv.ErrorLog == nil {
		srv.ErrorLog = stdlog.New(errorLog{log}, "", 0)
	}
	ctx, stop := context.WithCancel(context.Background())
	execute = func() error {
		log.Info().Stringer("addr", l.Addr()).Msg("listening")
		served := make(chan error, 1)
		go func() { served <- srv.Serve(l) }()
		select {
		case err := <-served:
			return fmt.Errorf("serve %s: %w", name, err)
		case <-ctx.Done():
		}
		log.Info().Stringer("at_most", drain).Msg("draining")
		if l, ok := l.(interface{ Settle() }); ok {
			l.Settle()
		}
		limit, cancel := context.WithTimeout(context.Background(), drain)
		defer cancel()
		if err := srv.Shutdown(limit); err != nil {
			log.Warn().Err(err).Msg("drain cut off")
			srv.Close()
		}
		<-served
		return nil
	}
	return execute, func(error) { stop() }
}

// StandardLog has what libraries say through the standard logger go to log.
func StandardLog(log zerolog.Logger) {
	stdlog.SetFlags(0)
	stdlog.SetOutput(errorLog{log})
}

// errorLog passes on what net/http writes to its log, at the level it deserves.
type errorLog struct{ log zerolog.Logger }

func (e errorLog) Write(line []byte) (int, error) {
	level := zerolog.DebugLevel // visitors cause it: a handshake or a request that broke off
	switch {
	case bytes.Contains(line, []byte("panic serving")):
		level = zerolog.ErrorLevel
	case bytes.Contains(line, []byte("Accept error")):
		level = zerolog.WarnLevel
	}
	e.log.WithLevel(level).Bytes("detail", bytes.TrimSpace(line)).Msg("http server")
	return len(line), nil
}
