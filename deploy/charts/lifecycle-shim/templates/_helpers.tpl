{{/* The image, by digest if there is one. */}}
{{- define "lifecycle-shim.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end -}}
{{- end -}}

{{/* Labels that selectors use: they never change. The argument is a list: the root, and the component. */}}
{{- define "lifecycle-shim.selector" -}}
app.kubernetes.io/name: lifecycle-shim
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "lifecycle-shim.labels" -}}
{{- $root := index . 0 -}}
{{ include "lifecycle-shim.selector" . }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* policy, webhook or none. `helm template` knows no kinds of the cluster unless --api-versions names them. */}}
{{- define "lifecycle-shim.admission" -}}
{{- $mode := .Values.admission.mode -}}
{{- if ne $mode "auto" -}}
{{ $mode }}
{{- else if and (semverCompare ">=1.36.0-0" .Capabilities.KubeVersion.Version) (.Capabilities.APIVersions.Has "admissionregistration.k8s.io/v1/MutatingAdmissionPolicy") -}}
policy
{{- else -}}
webhook
{{- end -}}
{{- end -}}

{{/* The node's config.toml; empty if no setting and no limit is set. */}}
{{- define "lifecycle-shim.settings" -}}
{{- with .Values.limits -}}
{{- with .maxTimeout }}MaxTimeout = {{ . | quote }}
{{ end -}}
{{- with .maxGracePeriod }}MaxGracePeriod = {{ . | quote }}
{{ end -}}
{{- with .allowedHandlers }}AllowedHandlers = {{ . | toJson }}
{{ end -}}
{{- end -}}
{{- range $key, $value := .Values.settings -}}
{{ $key }} = {{ if kindIs "string" $value }}{{ $value | quote }}{{ else }}{{ $value | int64 }}{{ end }}
{{ end -}}
{{- end -}}

{{/* A program that needs nothing of its node: what Pod Security calls restricted. */}}
{{- define "lifecycle-shim.restricted" -}}
allowPrivilegeEscalation: false
capabilities: {drop: [ALL]}
readOnlyRootFilesystem: true
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* Fields of a pod's spec that the installer, the webhook and the Job have in common. */}}
{{- define "lifecycle-shim.pullSecrets" -}}
{{- with .Values.imagePullSecrets -}}
imagePullSecrets:
{{- range . }}
- name: {{ . }}
{{- end }}
{{- end -}}
{{- end -}}
