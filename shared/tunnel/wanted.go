package tunnel

import (
	"context"
	"time"
)

// stillWanted is how often a stream that waits to be accepted is looked at.
const stillWanted = 200 * time.Millisecond

// Wanted returns a context for what has to be done before a stream is accepted. It ends a
// moment after the stream has broken: what nobody waits for any more would hold back the
// end of the session, and count against its streams. The caller must call cancel.
func (st *Stream) Wanted() (ctx context.Context, cancel func()) {
	ctx, end := context.WithCancel(context.Background())
	watch := time.AfterFunc(stillWanted, func() { // ends with ctx
		ticker := time.NewTicker(stillWanted)
		defer ticker.Stop()
		for st.Err() == nil {
			select {
			case <-ticker.C:
			case <-ctx.Done():
				return
			}
		}
		end()
	})
	return ctx, func() {
		watch.Stop()
		end()
	}
}
