package control

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// TestHeld has a client hear of its connection when it is served, and not before.
func TestHeld(t *testing.T) {
	release := make(chan func(), 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		held := &heldResponse{ResponseWriter: w}
		conn, err := new(websocket.Upgrader).Upgrade(held, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		t.Cleanup(func() { conn.Close() })
		if err := conn.WriteMessage(websocket.BinaryMessage, []byte("early")); err != nil {
			t.Error(err)
		}
		release <- func() {
			held.conn.release()
			_ = conn.WriteMessage(websocket.BinaryMessage, []byte("late"))
		}
	}))
	defer srv.Close()
	connected := make(chan *websocket.Conn, 1)
	go func() {
		conn, _, err := websocket.DefaultDialer.Dial("ws"+srv.URL[len("http"):], nil)
		if err != nil {
			t.Error(err)
		}
		connected <- conn
	}()
	free := <-release
	select {
	case <-connected:
		t.Fatal("the client was told before")
	case <-time.After(50 * time.Millisecond): // that it is not told later cannot be waited for
	}
	free()
	conn := <-connected
	if conn == nil {
		return
	}
	defer conn.Close()
	for _, want := range []string{"early", "late"} {
		if _, got, err := conn.ReadMessage(); err != nil || string(got) != want {
			t.Errorf("got %q %v, want %q", got, err, want)
		}
	}
}
