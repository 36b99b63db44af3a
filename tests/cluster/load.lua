-- Asks for the files of a directory in turn, with a rest between, and looks at every answer: its status, and whether its
-- body is that of one of the files, to the last byte. wrk itself counts connections that broke.
--
--     wrk -s load.lua URL -- DIRECTORY PAUSE_MS FILE...

local paths = {}
local bodies = {}
local threads = {}

function setup(thread)
  threads[#threads + 1] = thread
end

function init(arguments)
  local directory, pause_ms = arguments[1], tonumber(arguments[2])
  for index = 3, #arguments do
    local file = assert(io.open(directory .. "/" .. arguments[index], "rb"))
    bodies[file:read("*a")] = true
    file:close()
    paths[#paths + 1] = wrk.format("GET", "/" .. arguments[index])
  end
  -- Of random length, or the connections would soon ask all at once.
  function delay() return math.random(1, 2 * pause_ms - 1) end
  position = 0
  -- Globals, because only those can be read from the other state, in which `done` runs.
  bad_statuses = 0
  bad_bodies = 0
end

function request()
  position = position % #paths + 1
  return paths[position]
end

function response(status, _, body)
  if status ~= 200 then
    bad_statuses = bad_statuses + 1
  elseif not bodies[body] then
    bad_bodies = bad_bodies + 1
  end
end

function done(summary, latency, _)
  local errors = summary.errors
  print(string.format(
    'REPORT {"requests": %d, "max_us": %d, "failed": {"connect": %d, "read": %d, "write": %d, "timeout": %d, '
      .. '"status": %d, "body": %d}}',
    summary.requests, latency.max, errors.connect, errors.read, errors.write, errors.timeout,
    threads[1]:get("bad_statuses"), threads[1]:get("bad_bodies")
  ))
end
