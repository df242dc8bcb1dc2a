{{/*
The sidecar, for the chart of an ERP that has this one as a dependency; ../../example-erp shows it. Each takes the
context of this chart: index .Subcharts "invoisys-proxy".
*/}}

{{/* One item of initContainers in an ERP's pod, the first; of containers in the central service. */}}
{{- define "invoisys-proxy.container" -}}
- name: invoisys-proxy
  image: {{ printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) | quote }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  {{- if eq .Values.mode "sidecar" }}
  restartPolicy: Always
  {{- end }}
  env:
    - name: INVOISYS_CONFIG
      value: /etc/invoisys-proxy/config.yaml
  ports:
    {{- if eq .Values.mode "central" }}
    - {name: callers, containerPort: 8080}
    {{- end }}
    - {name: operator, containerPort: 9090}
  startupProbe:
    httpGet: {path: /startupz, port: operator}
    periodSeconds: 1
    failureThreshold: 30
  livenessProbe:
    httpGet: {path: /livez, port: operator}
    periodSeconds: 10
    timeoutSeconds: 3
  {{- if eq .Values.mode "central" }}
  readinessProbe:
    httpGet: {path: /readyz, port: operator}
    periodSeconds: 5
    timeoutSeconds: 3
    failureThreshold: 2
  {{- end }}
  resources:
    {{- toYaml .Values.resources | nindent 4 }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    readOnlyRootFilesystem: true
    allowPrivilegeEscalation: false
    capabilities: {drop: [ALL]}
    seccompProfile: {type: RuntimeDefault}
  volumeMounts:
    - {name: invoisys-proxy, mountPath: /etc/invoisys-proxy, readOnly: true}
    - {name: invoisys-credentials, mountPath: /run/secrets/invoisys, readOnly: true}
    {{- if eq .Values.mode "central" }}
    - {name: invoisys-caller-token, mountPath: /run/secrets/invoisys-caller-token, readOnly: true}
    {{- end }}
    {{- if .Values.tokenKey.secret }}
    - {name: invoisys-token-key, mountPath: /run/secrets/invoisys-token-key, readOnly: true}
    {{- end }}
{{- end }}

{{/* Items of the pod's volumes. */}}
{{- define "invoisys-proxy.volumes" -}}
- name: invoisys-proxy
  secret: {secretName: {{ include "invoisys-proxy.fullname" . }}}
- name: invoisys-credentials
  secret: {secretName: {{ .Values.credentials.secret }}}
{{- if eq .Values.mode "central" }}
- name: invoisys-caller-token
  secret: {secretName: {{ .Values.callerToken.secret }}}
{{- end }}
{{- if .Values.tokenKey.secret }}
- name: invoisys-token-key
  secret: {secretName: {{ .Values.tokenKey.secret }}}
{{- end }}
{{- end }}

{{/* An annotation of the pod: with another configuration there are other pods. */}}
{{- define "invoisys-proxy.checksum" -}}
invoisys-proxy/config: {{ include "invoisys-proxy.config" . | sha256sum }}
{{- end }}
