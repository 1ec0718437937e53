{{- define "splitway.name" -}}
{{- if contains "splitway" .Release.Name -}}
{{ .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-splitway" (.Release.Name | trunc 43) }}
{{- end -}}
{{- end -}}

{{- define "splitway.selector" -}}
app.kubernetes.io/name: splitway
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "splitway.labels" -}}
{{ include "splitway.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "splitway.metadata" -}}
name: {{ include "splitway.name" . }}
namespace: {{ .Release.Namespace }}
labels:
  {{- include "splitway.labels" . | nindent 2 }}
{{- end -}}

{{- /* The port of a URL; without one that of its scheme. */ -}}
{{- define "splitway.port-of" -}}
{{- $url := urlParse . -}}
{{- regexFind "[0-9]+$" (regexFind ":[0-9]+$" $url.host) | default (ternary "443" "80" (eq $url.scheme "https")) -}}
{{- end -}}
