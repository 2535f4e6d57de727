# The application alone, as docker-compose.yaml runs it: greet and the drivers. What starts
# private brokers, measures or draws stays out: requirements-app.lock is cut from requirements.lock.
FROM python:3.13.14-slim-bookworm

RUN useradd --system --no-create-home --shell /usr/sbin/nologin greet
WORKDIR /app
COPY requirements-app.lock ./
RUN pip install --no-cache-dir --require-hashes -r requirements-app.lock
COPY greet ./greet

USER greet
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
ENTRYPOINT ["python", "-m", "greet"]
CMD ["--help"]
