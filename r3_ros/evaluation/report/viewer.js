// A small viewer for the decimated cloud: drag turns, right drag or shift moves, wheel zooms.
(function () {
  'use strict';
  const canvas = document.getElementById('viewer');
  const gl = canvas.getContext('webgl', { antialias: true, preserveDrawingBuffer: true });
  if (!gl) {
    canvas.parentElement.hidden = true;
    return;
  }
  const scene = JSON.parse(document.getElementById('scene').textContent);
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const grid = new Uint16Array(bytes(scene.points).buffer);
  const colors = bytes(scene.colors);
  const path = new Float32Array(bytes(scene.path).buffer);
  const count = grid.length / 3;
  const points = new Float32Array(grid.length);
  for (let i = 0; i < grid.length; i++) {
    const axis = i % 3;
    points[i] = scene.low[axis] + (grid[i] / 65535) * (scene.high[axis] - scene.low[axis]);
  }

  function shader(kind, source) {
    const part = gl.createShader(kind);
    gl.shaderSource(part, source);
    gl.compileShader(part);
    return part;
  }
  const program = gl.createProgram();
  gl.attachShader(program, shader(gl.VERTEX_SHADER,
    'attribute vec3 place; attribute vec3 tint; uniform mat4 view; uniform float size;' +
    'varying vec3 color; void main() { gl_Position = view * vec4(place, 1.0);' +
    'gl_PointSize = clamp(size / gl_Position.w, 1.0, 12.0); color = tint; }'));
  gl.attachShader(program, shader(gl.FRAGMENT_SHADER,
    'precision mediump float; varying vec3 color;' +
    'void main() { gl_FragColor = vec4(color, 1.0); }'));
  gl.linkProgram(program);
  gl.useProgram(program);
  const place = gl.getAttribLocation(program, 'place');
  const tint = gl.getAttribLocation(program, 'tint');
  function buffer(data) {
    const made = gl.createBuffer();
    gl.bindBuffer(gl.ARRAY_BUFFER, made);
    gl.bufferData(gl.ARRAY_BUFFER, data, gl.STATIC_DRAW);
    return made;
  }
  const pointBuffer = buffer(points);
  const colorBuffer = buffer(colors);
  const pathBuffer = buffer(path);

  let azimuth = scene.azimuth, elevation = scene.elevation, distance = scene.distance;
  let target = scene.target.slice();
  let pending = false;

  function basis() {
    const ca = Math.cos(azimuth), sa = Math.sin(azimuth);
    const ce = Math.cos(elevation), se = Math.sin(elevation);
    const back = [ce * ca, ce * sa, se];  // from the target to the eye
    const right = [-sa, ca, 0];
    const up = [-se * ca, -se * sa, ce];
    return { back, right, up };
  }
  function viewMatrix() {
    const { back, right, up } = basis();
    const eye = target.map((t, i) => t + distance * back[i]);
    const dot = (a) => -(a[0] * eye[0] + a[1] * eye[1] + a[2] * eye[2]);
    const f = 1 / Math.tan(0.4), aspect = canvas.width / canvas.height;
    const near = distance * 0.01, far = distance * 100;
    const a = (far + near) / (near - far), b = (2 * far * near) / (near - far);
    const rows = [[...right, dot(right)], [...up, dot(up)], [...back, dot(back)]];
    const m = [];
    for (let c = 0; c < 4; c++) {
      m.push((f / aspect) * rows[0][c], f * rows[1][c], a * rows[2][c] + (c === 3 ? b : 0), -rows[2][c]);
    }
    return new Float32Array(m);
  }
  function draw() {
    pending = false;
    const ratio = window.devicePixelRatio || 1;
    const width = Math.round(canvas.clientWidth * ratio), height = Math.round(canvas.clientHeight * ratio);
    if (canvas.width !== width || canvas.height !== height) {
      canvas.width = width;
      canvas.height = height;
    }
    gl.viewport(0, 0, width, height);
    gl.clearColor(16 / 255, 20 / 255, 26 / 255, 1);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.enable(gl.DEPTH_TEST);
    gl.uniformMatrix4fv(gl.getUniformLocation(program, 'view'), false, viewMatrix());
    gl.uniform1f(gl.getUniformLocation(program, 'size'), scene.spacing * height * 1.6);
    gl.bindBuffer(gl.ARRAY_BUFFER, pointBuffer);
    gl.enableVertexAttribArray(place);
    gl.vertexAttribPointer(place, 3, gl.FLOAT, false, 0, 0);
    gl.bindBuffer(gl.ARRAY_BUFFER, colorBuffer);
    gl.enableVertexAttribArray(tint);
    gl.vertexAttribPointer(tint, 3, gl.UNSIGNED_BYTE, true, 0, 0);
    gl.drawArrays(gl.POINTS, 0, count);
    gl.disable(gl.DEPTH_TEST);
    gl.bindBuffer(gl.ARRAY_BUFFER, pathBuffer);
    gl.vertexAttribPointer(place, 3, gl.FLOAT, false, 0, 0);
    gl.disableVertexAttribArray(tint);
    gl.vertexAttrib3f(tint, 1.0, 0.77, 0.24);
    gl.drawArrays(gl.LINE_STRIP, 0, path.length / 3);
  }
  function refresh() {
    if (!pending) {
      pending = true;
      requestAnimationFrame(draw);
    }
  }
  let last = null;
  canvas.addEventListener('contextmenu', (event) => event.preventDefault());
  canvas.addEventListener('pointerdown', (event) => {
    last = [event.clientX, event.clientY];
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener('pointerup', () => { last = null; });
  canvas.addEventListener('pointermove', (event) => {
    if (!last) return;
    const dx = event.clientX - last[0], dy = event.clientY - last[1];
    last = [event.clientX, event.clientY];
    if (event.buttons & 2 || event.shiftKey) {
      const { right, up } = basis();
      const step = (distance * 0.85) / canvas.clientHeight;
      target = target.map((t, i) => t + step * (up[i] * dy - right[i] * dx));
    } else {
      azimuth -= dx * 0.006;
      elevation = Math.max(-1.55, Math.min(1.55, elevation + dy * 0.006));
    }
    refresh();
  });
  canvas.addEventListener('wheel', (event) => {
    event.preventDefault();
    distance *= Math.exp(event.deltaY * 0.001);
    refresh();
  }, { passive: false });
  window.addEventListener('resize', refresh);
  refresh();
})();
