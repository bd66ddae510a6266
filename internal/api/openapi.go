package api

import (
	_ "embed"
	"net/http"
)

// OpenAPI is the description of the API (https://spec.openapis.org/oas/v3.1.1).
//
//go:embed openapi.json
var OpenAPI []byte

func (a *API) getOpenAPI(w http.ResponseWriter, _ call) error {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(OpenAPI) // the sender may be gone
	return nil
}
