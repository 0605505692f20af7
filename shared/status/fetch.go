package status

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// maxDocument bounds an answer, at room for tens of thousands of clients.
const maxDocument = 16 << 20

// Header is a field of every request of Fetch. It tells a server whose port is shared with
// visitors that the request for /status is not one of them.
const Header = "Adit-Status"

// Fetch gets the document from url with token. Its errors say what to do and
// contain neither the token nor more than a line of the answer.
func Fetch(ctx context.Context, client *http.Client, url, token string) (Document, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return Document{}, fmt.Errorf("fetch status: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set(Header, "1")
	resp, err := client.Do(req)
	if err != nil {
		return Document{}, fmt.Errorf("fetch status, is the server running and the address right: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return Document{}, fmt.Errorf("fetch status from %s: %w", req.URL.Redacted(), refusal(resp))
	}
	body := &io.LimitedReader{R: resp.Body, N: maxDocument}
	var doc Document
	if err := json.NewDecoder(body).Decode(&doc); err != nil {
		if body.N <= 0 {
			err = fmt.Errorf("the answer is longer than %d bytes", maxDocument)
		}
		return Document{}, fmt.Errorf("fetch status from %s, is that a control plane: %w", req.URL.Redacted(), err)
	}
	return doc, nil
}

func refusal(resp *http.Response) error {
	switch resp.StatusCode {
	case http.StatusUnauthorized:
		return errors.New("the token was refused: set TOKEN or TOKEN_FILE to a token that the server has; one with OPERATOR_TOKEN tells its status to nobody else")
	case http.StatusNotFound:
		return errors.New("there is no status here: use the address of the control plane")
	case http.StatusTooManyRequests:
		return errors.New("too many failed attempts from this address: correct the token and try again later")
	}
	line, _ := io.ReadAll(io.LimitReader(resp.Body, 256))
	text, _, _ := strings.Cut(strings.TrimSpace(string(line)), "\n")
	return fmt.Errorf("the server answered %s: %s", resp.Status, printable(text))
}
