{{- define "invoisys-proxy.fullname" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name }}{{ else }}{{ .Release.Name }}-{{ .Chart.Name }}{{ end }}
{{- end }}

{{- define "invoisys-proxy.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* What stands in the configuration file: what follows from the chart, and over it what the values say. */}}
{{- define "invoisys-proxy.config" -}}
{{- $admin := dict "bind" "0.0.0.0:9090" "expose" true }}
{{- $account := dict "username_file" "/run/secrets/invoisys/username" "password_file" "/run/secrets/invoisys/password" }}
{{- $listener := pick .Values.listener "origins" "rules" }}
{{- $drain := dict "timeout" "25s" }}
{{- $tokens := dict }}
{{- if eq .Values.mode "central" }}
{{- $name := include "invoisys-proxy.fullname" . }}
{{- $inside := printf "%s.%s" $name .Release.Namespace }}
{{- $hosts := list $name $inside (printf "%s.svc" $inside) (printf "%s.svc.cluster.local" $inside) }}
{{- $_ := set $listener "bind" "0.0.0.0:8080" }}
{{- $_ := set $listener "hosts" (concat $hosts .Values.listener.hosts) }}
{{- $_ := set $listener "caller_token_file" "/run/secrets/invoisys-caller-token/token" }}
{{- $_ := set $drain "delay" "10s" }}
{{- else }}
{{- $_ := set $listener "bind" "127.0.0.1:8080" }}
{{- $_ := set $listener "hosts" .Values.listener.hosts }}
{{- end }}
{{- if .Values.tokenKey.secret }}
{{- $_ := set $tokens "key_file" "/run/secrets/invoisys-token-key/key" }}
{{- end }}
{{- $made := dict "environment" .Values.environment "accounts" (dict "default" $account) "admin" $admin }}
{{- $_ := set $made "listeners" (list $listener) }}
{{- $_ := set $made "drain" $drain }}
{{- $_ := set $made "tokens" $tokens }}
{{- toYaml (mergeOverwrite $made (deepCopy .Values.config)) }}
{{- end }}
