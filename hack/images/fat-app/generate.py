"""Writes a Rails application that is slow to boot for the reasons that real ones are: many gems, each with several
files; many classes, eagerly loaded; translations and settings read from YAML. The same input gives the same files.

Argument: the folder to write.
"""

import os
import random
import sys

GEMS = 250
PARTS = 8  # Ruby files in each gem
METHODS = 16  # methods in each of them
MODELS = 300
SETTINGS = 100  # YAML entries in each gem

WORDS = "order invoice account ledger parcel ticket report budget member project branch shelf".split()

GEMSPEC = """Gem::Specification.new do |spec|
  spec.name = "{name}"
  spec.version = "1.{number}.0"
  spec.summary = "generated"
  spec.authors = ["generated"]
  spec.files = Dir["lib/**/*"]
end
"""

APPLICATION = """require "rails"
require "active_model/railtie"
require "active_job/railtie"
require "action_controller/railtie"
require "action_view/railtie"
require "action_mailer/railtie"
Bundler.require(*Rails.groups)

module FatApp
  class Application < Rails::Application
    config.load_defaults 7.0
    config.eager_load = true
    config.hosts.clear
    config.logger = Logger.new($stdout, level: :warn)
    config.secret_key_base = ENV.fetch("SECRET_KEY_BASE")
  end
end
"""

CONTROLLER = """class HomeController < ActionController::Base
  STARTED = Process.clock_gettime(Process::CLOCK_MONOTONIC)

  def index
    render json: {
      hostname: Socket.gethostname,
      pid: Process.pid,
      uptime: Process.clock_gettime(Process::CLOCK_MONOTONIC) - STARTED,
      gems: Fat.constants.size,
      models: FatModel.descendants.size,
      settings: Fat.constants.sum { |name| Fat.const_get(name)::SETTINGS.size },
    }
  end
end
"""


def write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write(text)


def method(rng, number):
    one, two = rng.choice(WORDS), rng.choice(WORDS)
    return f"""
    def {one}_{two}_{number}(values, limit: {rng.randint(1, 99)})
      values.select {{ |value| value.to_s.length > limit }}
            .map {{ |value| [value, "{one} #{{value}} of {two} {rng.randint(0, 9999)}"] }}
            .to_h
    end
"""


def part(rng, module, number):
    methods = "".join(method(rng, n) for n in range(METHODS))
    table = ", ".join(f'{word}: "{rng.getrandbits(64):x}"' for word in WORDS)
    return f"module Fat::{module}\n  class Part{number}\n    TABLE = {{ {table} }}.freeze\n{methods}  end\nend\n"


def settings(rng, name):
    lines = [f"{name}:"]
    for number in range(SETTINGS):
        lines.append(f"  {rng.choice(WORDS)}_{number}:")
        lines.append(f"    title: \"{rng.choice(WORDS)} {rng.getrandbits(32):x}\"")
        lines.append(f"    limits: [{rng.randint(0, 9)}, {rng.randint(10, 99)}]")
    return "\n".join(lines) + "\n"


def gem(rng, root, number):
    name, module = f"fat_{number:03}", f"Gem{number:03}"
    folder = os.path.join(root, "gems", name)
    write(f"{folder}/{name}.gemspec", GEMSPEC.format(name=name, number=number))
    requires = "".join(f'require "{name}/part{n}"\n' for n in range(PARTS))
    write(
        f"{folder}/lib/{name}.rb",
        f'require "yaml"\nmodule Fat\n  module {module}\n'
        f'    SETTINGS = YAML.safe_load_file(File.join(__dir__, "{name}/settings.yml"))["{name}"].freeze\n'
        f"  end\nend\n{requires}",
    )
    write(f"{folder}/lib/{name}/settings.yml", settings(rng, name))
    for n in range(PARTS):
        write(f"{folder}/lib/{name}/part{n}.rb", part(rng, module, n))
    return name


def model(rng, root, number):
    word = rng.choice(WORDS)
    fields = "".join(f"  attribute :{word}_{n}, :{rng.choice(['string', 'integer', 'boolean'])}\n" for n in range(12))
    checks = "".join(f"  validates :{word}_{n}, presence: true\n" for n in range(6))
    write(f"{root}/app/models/thing{number:03}.rb", f"class Thing{number:03} < FatModel\n{fields}{checks}end\n")


def main(root):
    rng = random.Random(2019)
    names = [gem(rng, root, number) for number in range(GEMS)]
    for number in range(MODELS):
        model(rng, root, number)
    write(f"{root}/app/models/fat_model.rb", "class FatModel\n  include ActiveModel::Model\n  include ActiveModel::Attributes\nend\n")
    write(f"{root}/app/controllers/home_controller.rb", CONTROLLER)
    write(f"{root}/Gemfile", 'gem "rails"\ngem "puma"\n' + "".join(f'gem "{name}", path: "gems/{name}"\n' for name in names))
    write(f"{root}/config/application.rb", 'require "bundler/setup"\n' + APPLICATION)
    write(f"{root}/config/environment.rb", 'require_relative "application"\nRails.application.initialize!\n')
    routes = "".join(f'  get "/things/{n:03}" => "home#index"\n' for n in range(MODELS))
    write(f"{root}/config/routes.rb", f'Rails.application.routes.draw do\n  root to: "home#index"\n{routes}end\n')
    write(f"{root}/config.ru", 'require_relative "config/environment"\nrun Rails.application\n')


main(sys.argv[1])
