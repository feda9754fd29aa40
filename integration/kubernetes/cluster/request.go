package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
)

// Get reads an object, or a list, by its path in the API: what tests poll, for which kubectl would be too slow. into
// is for encoding/json; nil: the answer's status alone counts.
func (a *API) Get(ctx context.Context, path string, into any) error {
	return a.request(ctx, http.MethodGet, path, nil, into)
}

// Create makes an object of a manifest in JSON, in the list with that path in the API. into gets it as it is then; nil: the answer's status
// alone counts.
func (a *API) Create(ctx context.Context, path string, manifest []byte, into any) error {
	return a.request(ctx, http.MethodPost, path, manifest, into)
}

func (a *API) request(ctx context.Context, method, path string, body []byte, into any) error {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, a.url+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "Bearer "+a.token)
	request.Header.Set("Content-Type", "application/json")
	response, err := a.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	switch {
	case err != nil:
		return fmt.Errorf("%s %s: %w", method, path, err)
	case response.StatusCode == http.StatusNotFound:
		return fmt.Errorf("%s %s: %w", method, path, os.ErrNotExist)
	case response.StatusCode != http.StatusOK && response.StatusCode != http.StatusCreated:
		return fmt.Errorf("%s %s: %s: %s", method, path, response.Status, bytes.TrimSpace(answer))
	case into == nil:
		return nil
	}
	return json.Unmarshal(answer, into)
}
